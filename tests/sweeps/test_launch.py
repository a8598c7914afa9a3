"""What Ray is asked for; Ray itself is not started."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from sweeps import cluster, launch, packing
from sweeps.errors import SetupError
from sweeps.groups import Grouping, Room
from sweeps.launch import Cluster, QueueSearcher
from sweeps.queue import Queue
from trainers import attempts
from trainers.config import Execution, Trial


def searching(place: Any, queue: Queue) -> QueueSearcher:
    """For one place, and groups of four."""
    grouping = Grouping(1, Room(None, None), place.settings.data, asked=4)
    return QueueSearcher(queue, place.settings, grouping, launch.StudyScheduler(queue))


@pytest.mark.parametrize(("asked", "alone"), [(0.25, 1.0), (1, 1.0), (2, 2.0), (0, 0)])
def test_a_trial_that_ran_out_of_device_memory_gets_a_device_for_itself(place: Any, asked: float, alone: float) -> None:
    text = f"seeds = [0]\nresources = {{ cpu = 1, gpu = {asked} }}"
    queue = Queue([place.plan(place.write(swap={"seeds = [0]": text}), pair="A")], [], place.state)
    searcher = searching(place, queue)
    first = searcher.suggest("one")
    assert first["gpu"] == asked
    with attempts.claim(queue.trials[first["digests"][0]], place.state, Execution(), lease_s=0.1) as attempt:
        attempt.note_machine_fault("CUDA out of memory", "device_memory")
    searcher.on_trial_complete("one", error=True)
    again = searcher.suggest("two")
    assert (again["digests"], again["gpu"]) == (first["digests"], alone)


def grid(place: Any, **options: Any) -> Queue:
    """Two students whose teacher is done."""
    plan = place.plan(place.write(**options), pair="A")
    place.train(next(iter(plan.trials.values())))
    return Queue([place.plan("grid.toml", pair="A")], [], place.state)


def test_a_group_is_one_of_tunes_trials_whose_members_end_one_by_one(place: Any) -> None:
    queue = grid(place)
    searcher = searching(place, queue)
    config = searcher.suggest("one")
    first, second = config["digests"]
    assert [queue.trials[d].model_dump_json() for d in (first, second)] == config["trials"]
    assert config["watch"] == [[], []]
    assert searcher.suggest("two") is None
    place.train(queue.trials[second])
    searcher.on_trial_result("one", {"ended": [(second, "done", "")]})
    assert queue.running == {first}
    place.train(queue.trials[first], end="failed")
    searcher.on_trial_complete("one", {"ended": [(second, "done", ""), (first, "failed", "loss is nan")], "done": True})
    assert queue.finished()
    assert queue.failed == {first: "loss is nan"}


def test_trials_of_a_group_whose_worker_died_are_alone_next_time(place: Any) -> None:
    searcher = searching(place, grid(place))
    first, second = searcher.suggest("one")["digests"]
    searcher.on_trial_complete("one", error=True)
    again = [searcher.suggest(name)["digests"] for name in ("two", "three")]
    assert sorted(again) == sorted([[first], [second]])


def test_a_pruned_member_is_taken_back_and_the_last_one_ends_tunes_trial(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = grid(place)
    searcher = searching(place, queue)
    scheduler = searcher.scheduler
    trial = SimpleNamespace(config=searcher.suggest("one"))
    first, second = trial.config["digests"]
    for digest in (first, second):
        place.train(queue.trials[digest], (50.0,), end=None)
    monkeypatch.setattr(queue, "should_prune", lambda digest, epoch, row: row["val/acc1_pct"] < 50)
    row = {"ended": [], "epoch": 0, "val/acc1_pct": 60.0}
    assert scheduler.on_trial_result(None, trial, {"ended": []}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, {**row, "digest": first}) == "CONTINUE"
    assert queue.running == {first, second}
    row["val/acc1_pct"] = 40.0
    assert scheduler.on_trial_result(None, trial, {**row, "digest": first}) == "CONTINUE"
    assert queue.running == {second}
    searcher.on_trial_result("one", {"ended": [(first, "fenced", "taken over")]})  # as its worker meets the seal
    assert first not in queue.waiting
    assert scheduler.on_trial_result(None, trial, {**row, "digest": second}) == "STOP"
    searcher.on_trial_complete("one", {**row, "digest": second})
    assert not queue.running and not queue.waiting
    states = [attempts.read_status(place.state, digest).state.value for digest in (first, second)]
    assert states == ["stopped", "stopped"]


GPU = {"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 1 }"}


class Ray:
    """Stands for Ray where tasks are put on GPUs: each is run at once, here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device_mib: float | None) -> None:
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(launch.ray, "remote", self.remote)
        monkeypatch.setattr(launch.ray, "get", lambda answer: answer())
        bytes_ = None if device_mib is None else device_mib * packing.MIB
        monkeypatch.setattr(launch, "device_bytes", lambda settings: bytes_)

    def remote(self, **options: Any) -> Any:
        self.asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda *given: lambda: function(*given))


def test_each_kind_of_trial_is_measured_once_and_gets_its_share(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue([place.plan(place.write(swap=GPU))], [], place.state)
    ray = Ray(monkeypatch, 16_000.0)

    def peak(trial: str, *_: Any) -> float:
        student = Trial.model_validate_json(trial)
        if student.teacher is None:
            raise RuntimeError("CUDA error\nout of luck")  # the guess stands
        return 4000.0 if student.teacher.network == "resnet14" else 8000.0

    monkeypatch.setattr(launch, "peak_memory_mib", peak)
    launch.pack(queue, place.settings)
    assert [options["num_gpus"] for options in ray.asked] == [1] * 4  # two teachers, students of either
    shares = {queue.names[digest]: queue.resources(digest).gpu for digest in queue.trials}
    assert shares.pop("teacher resnet14 seed=0") == shares.pop("teacher resnet20 seed=0") == 1 / packing.MOST
    assert {name.split()[0]: round(share, 4) for name, share in shares.items()} == {"pair=A": 0.35, "pair=B": 0.6625}
    assert launch.concurrency(queue, Cluster(64.0, 2.0)) == 16  # as many as there may be of the smallest
    grouping = Grouping(2, Room(None, 1e12), place.settings.data)
    searcher = QueueSearcher(queue, place.settings, grouping, launch.StudyScheduler(queue))
    first = searcher.suggest("one")
    assert (first["gpu"], first["device"], first["cpu"]) == (1 / packing.MOST, "cuda", 1.0)


def test_a_packed_trial_that_ran_out_of_memory_gets_the_device(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = place.plan(place.write(swap=GPU), pair="A")
    place.train(next(iter(plan.trials.values())))
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    queue.pack(lambda trial, passes: 0.25)
    searcher = searching(place, queue)
    group = searcher.suggest("one")
    first, second = group["digests"]
    assert group["gpu"] == 0.25
    with attempts.claim(queue.trials[first], place.state, Execution(), lease_s=0.1) as attempt:
        attempt.note_machine_fault("CUDA out of memory", "device_memory")
    place.train(queue.trials[second])
    searcher.on_trial_result("one", {"ended": [(first, "crashed", "CUDA out of memory")]})
    searcher.on_trial_complete("one", {"ended": [(second, "done", "")], "done": True})
    again = searcher.suggest("two")
    assert (again["digests"], again["gpu"]) == ([first], 1.0)
    assert queue.failed == {}


def test_shares_need_a_gpu_that_says_how_large_it_is(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue([place.plan(place.write(swap=GPU), pair="A")], [], place.state)
    Ray(monkeypatch, None)
    with pytest.raises(SetupError, match=r"give a share, such as --gpu 0\.5"):
        launch.pack(queue, place.settings)


def test_demands_that_no_node_of_the_cluster_meets_are_refused(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "seeds = [0]\nresources = { cpu = 8, gpu = 2 }"
    queue = Queue([place.plan(place.write(swap={"seeds = [0]": text}))], [], place.state)
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(launch.ray, "nodes", lambda: nodes)
    with pytest.raises(SetupError) as refused:
        launch.require_resources(queue, Cluster(4.0, 1.0))
    cpu, gpu = refused.value.faults
    assert "tiny/grid [paper]: a trial needs 8 CPU, but no node has more than 4" in cpu
    assert "needs 2 GPU, but no node has more than 1" in gpu


def test_a_cluster_that_wants_a_token_says_where_it_goes(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise AuthenticationError("RPC error: InvalidAuthToken: Authentication token is missing or incorrect")

    monkeypatch.setattr(launch.ray, "init", init)
    with pytest.raises(SetupError, match=r"far:6379 asks for its token.*set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"):
        launch.start(replace(place.settings, ray_address="far:6379"))


@pytest.mark.parametrize(
    ("address", "told"), [(None, "Ray does not start on this machine"), ("far:6379", "at far:6379")]
)
def test_a_ray_that_does_not_come_up_is_one_message(
    address: str | None, told: str, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        assert options["address"] == (address or "local")  # never what somebody else's `ray start` has left here
        raise Exception("The current node timed out during startup.\nMore of it.")  # as Ray raises it

    monkeypatch.setattr(launch.ray, "init", init)
    with pytest.raises(SetupError, match=told) as refused:
        launch.start(replace(place.settings, ray_address=address))
    (fault,) = refused.value.faults
    assert "timed out during startup.;" in fault
    assert "RAY_ADDRESS" in fault
    assert "\n" not in fault


def test_ray_comes_up_beside_other_work_whose_fault_ends_it_again(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    began, there, left = threading.Event(), threading.Event(), list[str]()

    def init(**_: Any) -> None:
        assert began.wait(20)  # the work goes on while Ray comes up
        there.set()

    def work() -> None:
        began.set()
        assert there.wait(20)
        raise SetupError("no store")

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: left.append("shut down"))
    with pytest.raises(SetupError, match="no store"):
        cluster.start(place.settings, meanwhile=work)
    assert left == ["shut down"]


class Node:
    """Stands for Ray's node, whose processes are started by methods of their own."""

    node_id = "00" * 28

    def __init__(self) -> None:
        self.began: list[str] = []
        self.asked = 0

    def start_api_server(self, **_: Any) -> None:
        self.began.append("page")

    def start_log_monitor(self) -> None:
        self.began.append("log")

    def start_ray_processes(self) -> None:
        self.start_api_server(include_dashboard=False)
        self.start_log_monitor()
        self.began.append("raylet")

    def get_gcs_client(self) -> Node:
        return self

    def get_all_node_info(self, timeout: float) -> dict[Any, str]:
        self.asked += 1
        return {cluster.ray.NodeID.from_hex(self.node_id): "up"} if self.asked == 3 else {}


def test_ray_here_starts_what_is_used_and_is_looked_for_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "Node", Node)  # one without a monitor: this Ray may have no such method
    lean, honest = Node(), Node()
    with cluster._lean_start():
        lean.start_ray_processes()
        assert cluster.installed.get_dashboard_dependency_error() is not None
    honest.start_ray_processes()
    assert (lean.began, lean.asked) == (["raylet"], 3)
    assert (honest.began, honest.asked) == (["page", "log", "raylet"], 0)
    assert cluster.installed.get_dashboard_dependency_error() is None


def test_a_node_that_does_not_answer_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Node):
        def get_all_node_info(self, timeout: float) -> dict[Any, str]:
            self.asked += 1
            raise RuntimeError("GCS is away")

    node = Silent()
    cluster._looked_for(Node.start_ray_processes)(node)
    assert (node.began[-1], node.asked) == ("raylet", 1)
    monkeypatch.setattr(cluster, "LOOKS", 4)
    absent = Node()
    absent.asked = 3
    cluster._looked_for(Node.start_ray_processes)(absent)
    assert absent.asked == 7


@pytest.mark.parametrize(("address", "own"), [(None, True), ("far:6379", False)])
def test_workers_get_no_variables_of_their_own_where_ray_was_started_here(
    address: str | None, own: bool, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    tunes = launch.tune_controller._ActorClassCache
    with launch.waiting_workers(replace(place.settings, ray_address=address)):
        cache = launch.tune_controller._ActorClassCache()
        actor = cache.get(launch.TrialRunner)
        assert cache.get(launch.TrialRunner) is actor
    variables = (actor._default_options.get("runtime_env") or {}).get("env_vars", {})
    assert variables.get("AWS_ACCESS_KEY_ID") == (None if own else "somebody")
    assert bool(variables) is not own
    assert launch.tune_controller._ActorClassCache is tunes


class Part:
    """Stands for this sweep's part of a cluster: what it may hold is set by the test."""

    def __init__(self) -> None:
        self.start, self.over, self.contested, self.worth = 99, 0, True, True
        self.held: dict[str, Any] = {}
        self.yielding: set[str] = set()

    def may_start(self) -> bool:
        return len(self.held) < self.start

    def took(self, trial_id: str, bundle: Any) -> None:
        self.held[trial_id] = bundle

    def gave_back(self, trial_id: str) -> bool:
        self.held.pop(trial_id, None)
        return trial_id in self.yielding

    def excess(self) -> int:
        return self.over

    def may_yield(self, trial_id: str) -> bool:
        return self.worth


class Kept:
    """Stands for the places that Tune keeps."""

    def __init__(self, unstarted: list[Any], searcher: QueueSearcher) -> None:
        self.waiting, self.searcher, self.let = unstarted, searcher, 0

    def let_go(self) -> None:
        self.let += 1

    def unstarted(self) -> list[Any]:
        return list(self.waiting)

    def withdraw(self, trial: Any) -> None:
        self.waiting.remove(trial)
        self.searcher.on_trial_complete(trial.trial_id)


class TuneTrial:
    """What schedulers look at."""

    status = "RUNNING"

    def __init__(self, trial_id: str, config: dict[str, Any]) -> None:
        self.trial_id, self.config = trial_id, config


class Controller:
    """Tune's, without trials."""

    def get_trials(self) -> list[Any]:
        return []


@pytest.fixture
def shared(place: Any) -> Any:
    """A searcher and a scheduler with two students ready to run, and their part of the cluster."""
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    teacher = queue.next()
    assert teacher is not None
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    part: Any = Part()
    scheduler = launch.StudyScheduler(queue, part)
    grouping = Grouping(2, Room(None, None), place.settings.data, asked=1)
    searcher = QueueSearcher(queue, place.settings, grouping, scheduler)
    return queue, part, scheduler, searcher


def test_a_sweep_starts_no_more_than_its_share_and_lets_go_of_the_rest(shared: Any) -> None:
    queue, part, scheduler, searcher = shared
    part.start = 1
    kept = scheduler._places = Kept([], searcher)
    assert searcher.suggest("one") is not None
    assert part.held == {"one": (1, 0)}
    assert searcher.suggest("two") is None
    assert (len(queue.waiting), kept.let) == (1, 1)
    part.contested = False
    assert searcher.suggest("two") is None
    assert kept.let == 1  # nobody waits for it
    part.start = 2
    assert searcher.suggest("two") is not None
    searcher.on_trial_complete("one", error=True)
    assert list(part.held) == ["two"]


def test_trials_yield_after_an_epoch_and_those_without_a_place_at_once(shared: Any) -> None:
    queue, part, scheduler, searcher = shared
    first, second = (TuneTrial(name, searcher.suggest(name)) for name in ("one", "two"))
    scheduler._places = Kept([second], searcher)
    epoch: dict[str, Any] = {"ended": []}
    scheduler.choose_trial_to_run(Controller())
    assert scheduler.on_trial_result(None, first, epoch) == "CONTINUE"
    part.over = 2
    scheduler.choose_trial_to_run(Controller())
    assert [*queue.running] == first.config["digests"]
    assert queue.waiting == second.config["digests"]
    part.worth = False
    assert scheduler.on_trial_result(None, first, epoch) == "CONTINUE"
    part.worth = True
    assert scheduler.on_trial_result(None, first, epoch) == "STOP"
    searcher.on_trial_complete("one", epoch)
    assert queue.running == set()
    assert queue.waiting == [*first.config["digests"], *second.config["digests"]]
    assert queue.failed == {}
    assert attempts.read_status(queue.state_root, first.config["digests"][0]).state is attempts.State.NEW  # no seal


def test_one_trial_yields_for_one_place(shared: Any) -> None:
    _, part, scheduler, searcher = shared
    trials = [TuneTrial(name, searcher.suggest(name)) for name in ("one", "two")]
    scheduler._places = Kept([], searcher)
    part.over = 1
    scheduler.choose_trial_to_run(Controller())
    answers = [scheduler.on_trial_result(None, trial, {"ended": []}) for trial in trials]
    assert answers == ["STOP", "CONTINUE"]


def test_a_worker_that_dies_while_it_is_to_yield_has_died(shared: Any) -> None:
    queue, part, _, searcher = shared
    (digest,) = searcher.suggest("one")["digests"]
    part.yielding.add("one")
    searcher.on_trial_complete("one", error=True)
    assert queue._crashes == {digest: 1}


def test_a_launch_that_waits_hears_an_interrupt(shared: Any) -> None:
    """Tune answers Ctrl-C by putting the former handler back, and by asking on for a trial."""
    _, part, _, searcher = shared
    part.start = 0
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        assert searcher.suggest("one") is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert searcher.suggest("one") == QueueSearcher.FINISHED


def test_only_a_cluster_is_shared(place: Any) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    with launch.joined(place.settings, queue, 2, 2.0, 5, grows=True) as alone:
        assert alone is None
    part = launch.joined(replace(place.settings, ray_address="far:6379"), queue, 2, 2.0, 5, grows=False)
    assert isinstance(part, launch.Share)
    assert (part.weight, part.priority, part.at_once, part.most) == (2.0, 5, 2, 2)


class DyingRay:
    """Stands for Ray: each of the first `deaths` launches ends with a dead raylet."""

    def __init__(self, deaths: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deaths, self.killed_starts = deaths, 0
        self.fits, self.starts, self.dead = 0, 0, False
        monkeypatch.setattr(launch, "_fit", self.fit)
        monkeypatch.setattr(launch, "start", self.start)
        monkeypatch.setattr(launch, "stop", lambda: None)
        monkeypatch.setattr(launch, "dead_services", lambda: ["raylet"] if self.dead else [])

    def fit(self, queue: Queue, *_: Any) -> None:
        self.fits += 1
        assert queue.next() is not None  # is on its way
        if self.fits <= self.deaths:
            self.dead = True
            raise RuntimeError("whatever Tune makes of it")

    def start(self, *_: Any) -> None:
        self.starts, self.dead = self.starts + 1, False
        if self.starts <= self.killed_starts:
            raise SetupError("Ray does not start on this machine: timed out")


def test_a_ray_that_dies_here_is_started_again_and_its_trials_get_another_turn(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    ray = DyingRay(2, monkeypatch)
    launch.fit(queue, place.settings, Grouping(1, Room(None, None), place.settings.data))
    assert (ray.fits, ray.starts) == (3, 2)
    assert len(queue.running) == 1  # the last one's
    assert queue.failed == {}


def test_a_ray_that_dies_again_and_again_is_given_up(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    DyingRay(99, monkeypatch)
    with pytest.raises(SetupError, match="Ray's raylet died: 4 ends of Ray on this machine"):
        launch.fit(queue, place.settings, Grouping(1, Room(None, None), place.settings.data))


@pytest.mark.parametrize(("killed", "ends_well"), [(2, True), (3, False)])
def test_a_ray_that_is_killed_while_it_starts_again_is_started_once_more(
    killed: int, ends_well: bool, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    ray = DyingRay(1, monkeypatch)
    ray.killed_starts = killed
    grouping = Grouping(1, Room(None, None), place.settings.data)
    if ends_well:
        launch.fit(queue, place.settings, grouping)
    else:
        with pytest.raises(
            SetupError,
            match=r"^Ray died and did not start again \(Ray does not start .*timed out\): 4 ends of Ray on this machine",
        ):
            launch.fit(queue, place.settings, grouping)
    assert (ray.starts, ray.fits) == (3, 2 if ends_well else 1)
    assert queue.failed == {}


def test_an_error_that_is_not_rays_death_is_no_reason_to_start_it_again(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    ray = DyingRay(1, monkeypatch)
    monkeypatch.setattr(launch, "dead_services", list)
    with pytest.raises(RuntimeError, match="whatever"):
        launch.fit(queue, place.settings, Grouping(1, Room(None, None), place.settings.data))
    assert ray.starts == 0


def test_the_watchdog_barks_at_a_dead_service_and_at_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Node:
        gone: tuple[str, ...] = ("log_monitor",)

        def dead_processes(self) -> list[tuple[str, None]]:
            return [(kind, None) for kind in self.gone]

    watchdog, node = launch.Watchdog(), Node()
    watchdog.on_step_end(0, [])  # no Ray at all
    monkeypatch.setattr(launch.ray._private.worker, "_global_node", node)
    watchdog.on_step_end(0, [])
    node.gone = ("log_monitor", "gcs_server")
    with pytest.raises(launch.RayDied, match="Ray's gcs_server died"):
        watchdog.on_step_end(0, [])
