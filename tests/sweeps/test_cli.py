"""Every verb as a person types it: help with an example that works, plain and JSON output, exit codes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps import cli
from sweeps.tracking import client
from sweeps.verbs import run
from trainers import attempts

Run = Callable[..., tuple[int, str, str]]

VERBS = (
    "list",
    "check",
    "plan",
    "run",
    "submit",
    "status",
    "logs",
    "cancel",
    "why",
    "sync",
    "ui",
    "data",
    "replay",
    "gc",
)


def runs_in(store: Any) -> list[Any]:
    return list(store.search_runs([each.experiment_id for each in store.search_experiments()]))


def example(run_sweep: Run, *verb: str) -> list[str]:
    """The arguments of the example that ends a help text."""
    code, out, _ = run_sweep(*verb, "--help")
    assert code == 0
    found = re.search(r"example:\n  sweep (.+)\n\Z", out)
    assert found, out
    return shlex.split(found[1])


def test_these_are_the_verbs(run_sweep: Run) -> None:
    out = run_sweep("--help")[1]
    assert re.findall(r"^    (\w+)  ", out, re.M) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_in_an_example_of_that_verb(verb: str, run_sweep: Run) -> None:
    argv = example(run_sweep, verb)
    assert argv[0] == verb
    assert cli.parser().parse_args(argv).verb == verb


def test_the_example_of_the_whole_command_is_understood(run_sweep: Run) -> None:
    arguments = cli.parser().parse_args(example(run_sweep))
    assert (arguments.verb, arguments.experiments, arguments.profile) == ("run", ["cudfkd/fig9"], "demo")


@pytest.fixture
def swept(tracked_place: Any) -> Any:
    """cudfkd/fig9 in demo with its teacher done, one cell done, one failed and one partial."""
    plan = tracked_place.plan("cudfkd/fig9", "demo")
    teacher, done, failed, partial = list(plan.trials.values())[:4]
    for trial, end in ((teacher, "done"), (done, "done"), (failed, "failed"), (partial, None)):
        tracked_place.train(trial, end=end, cause="epoch 1: train/loss = nan")
    return tracked_place


@pytest.mark.parametrize(
    ("verb", "code", "says"),
    [
        ("list", 0, "cudfkd/fig9        9 cells  heatmap   Effect of k_begin and k_end"),
        ("check", 0, " experiments, no fault"),
        ("plan", 0, "10 trials: 2 done, 1 partial, 1 failed, 6 new"),
        ("run", 0, "10 trials: 2 done, 1 partial, 1 failed, 6 new"),
        ("status", 0, "cudfkd/fig9 [demo]           10 trials: 2 done, 1 partial, 1 failed, 6 new"),
        ("why", 1, "1 failed: epoch 1: train/loss = nan"),
        ("sync", 0, "cudfkd/fig9 [demo]: 4 trials in step"),
        ("data", 0, "digits: 1078 train, 270 val, 449 test, 10 classes, 8 px"),
        ("gc", 0, "1 files, 0.0 MiB could be freed with --yes"),  # the failed cell's checkpoint
    ],
)
def test_the_example_of_a_verb_works(verb: str, code: int, says: str, swept: Any, run_sweep: Run) -> None:
    argv = example(run_sweep, verb)
    if verb == "list":  # its example names no profile: the paper's scale
        says = says.replace("  9 cells", " 27 cells")
    found, out, err = run_sweep(*argv)
    assert (found, err) == (code, "")
    assert says in out


# --- run -------------------------------------------------------------------------------------------------------------


def test_run_without_a_profile_starts_nothing_and_prices_every_profile(
    swept: Any, run_sweep: Run, snapshot: Any
) -> None:
    before = snapshot(swept.folder)
    code, out, err = run_sweep("run", "cudfkd/fig9")
    assert (code, out) == (2, "")
    assert err.startswith("error: --profile is missing; nothing was started")
    lines = err.splitlines()
    for profile, price in (("demo", "10 trials"), ("paper", "30 trials")):
        (at,) = [number for number, line in enumerate(lines) if f"--profile {profile}" in line]
        assert price in lines[at + 1]
    assert "min of training" in err
    assert snapshot(swept.folder) == before


def test_dry_run_and_plan_print_the_same_and_write_nothing(swept: Any, run_sweep: Run, snapshot: Any) -> None:
    before = snapshot(swept.folder)
    planned = run_sweep("plan", "cudfkd/fig9", "--profile", "demo")
    assert run_sweep("run", "cudfkd/fig9", "--profile", "demo", "--dry-run") == planned
    assert "scale: " in planned[1]
    assert "data cifar100 -> digits" in planned[1]
    assert "alpha 0.1 -> 1.5" in planned[1]
    assert "price: about" in planned[1]
    assert snapshot(swept.folder) == before


def test_run_of_what_is_done_starts_nothing_and_shows_the_table(
    tracked_place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # Ray is not needed, and must not be asked for
    tracked_place.train_all(tracked_place.plan(tracked_place.write()))
    code, out, err = run_sweep("run", "grid.toml", "--profile", "paper")
    assert (code, err) == (0, "")
    assert "6 trials: 6 done" in out
    assert "nothing to run" in out
    assert "59.50" in out  # best test Acc@1 of every cell, in the table
    assert "wrote paper/tiny/grid/paper/table.md" in out
    store = client(tracked_place.settings)
    runs = runs_in(store)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 7
    files = {path: path.read_bytes() for path in (tracked_place.folder / "paper").rglob("*") if path.is_file()}
    assert run_sweep("run", "grid.toml", "--profile", "paper")[0] == 0
    assert {path: path.read_bytes() for path in files} == files
    assert len(runs_in(store)) == 7


def test_run_ends_with_planned_and_actual_cost(
    tracked_place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's part is played by trials without training: each epoch takes 1.5 s by their journals."""

    def fit(arguments: Any, settings: Any, queue: Any, tracker: Any) -> None:
        tracker.start()
        while (digest := queue.next()) is not None:
            tracked_place.train(queue.trials[digest], [50.0] * 20)
            queue.release(digest, "done")

    monkeypatch.setattr(run, "_fit", fit)
    plan = tracked_place.plan(tracked_place.write(), pair="A")
    for trial in list(plan.trials.values())[:2]:
        tracked_place.train(trial, [50.0] * 20)
    code, out, _ = run_sweep("run", "grid.toml", "--profile", "paper", "--only", "pair=A")
    assert code == 0
    assert "price: about 0.5 min of training one after the other (80 %: 0.23 to 0.77 min)" in out
    assert "price: planned 0.5 min (80 %: 0.23 to 0.77 min), took 0.5 min of training: within the interval" in out


def test_run_of_what_failed_earlier_exits_with_one_and_names_it(tracked_place: Any, run_sweep: Run) -> None:
    plan = tracked_place.plan(tracked_place.write(), pair="A")
    teacher, first, second = plan.trials.values()
    tracked_place.train(teacher)
    tracked_place.train(first, end="failed", cause="loss is nan")
    tracked_place.train(second)
    code, out, _ = run_sweep("run", "grid.toml", "--profile", "paper", "--only", "pair=A")
    assert code == 1
    assert "3 trials: 2 done, 1 failed" in out
    assert "FAILED pair=A temperature=2 seed=0: failed earlier" in out
    assert "sweep why" in out


def test_only_and_seeds_reach_the_plan(place: Any, run_sweep: Run) -> None:
    place.write()
    out = run_sweep("plan", "grid.toml", "--only", "pair=A", "--only", "temperature=4", "--seeds", "0,10,20")[1]
    assert "4 trials: 4 new" in out
    assert "pair=A temperature=4 seed=20" in out
    assert "temperature=2" not in out


def test_several_experiments_count_what_they_share_once(place: Any, run_sweep: Run) -> None:
    out = run_sweep("plan", "cudfkd/fig9", "cudfkd/fig10", "--profile", "demo")[1]
    assert "together: 17 trials: 17 new (2 shared between experiments)" in out


# --- JSON ------------------------------------------------------------------------------------------------------------


def answer(run_sweep: Run, *argv: str, code: int = 0) -> Any:
    found, out, err = run_sweep(*argv, "--json")
    assert (found, err) == (code, "")
    return json.loads(out)


def test_list_as_json(place: Any, run_sweep: Run) -> None:
    rows = answer(run_sweep, "list", "--profile", "demo")
    figures, tables = [f"cudfkd/fig{n}" for n in range(2, 11)], [f"cudfkd/table{n}" for n in range(1, 6)]
    first = [*figures, "cudfkd/search", *tables]
    assert [row["experiment"] for row in rows][: len(first)] == first
    assert {row["experiment"].split("/")[0] for row in rows[len(first) :]} == {"pckd"}
    assert rows[7] == {
        "experiment": "cudfkd/fig9",
        "title": "Effect of k_begin and k_end",
        "kind": "heatmap",
        "cells": 9,
        "seeds": [0],
    }
    assert rows[9]["kind"] == "search"


def test_a_plan_says_which_trials_share_a_teachers_passes(
    place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    file = place.write(swap={'"4", value = 4.0 }': '"4", value = 4.0 }, { label = "8", value = 8.0 }'})
    argv = ("plan", file, "--profile", "paper")
    out = run_sweep(*argv)[1]
    assert "groups: 6 trials share teacher passes in 2 groups of 3\n" in out
    assert "groups: 4 trials share teacher passes in 2 groups of 2\n" in run_sweep(*argv, "--group", "2")[1]
    alone = run_sweep(*argv, "--no-group")
    assert (alone[0], "groups:" in alone[1]) == (0, False)
    together, apart = (json.loads(run_sweep(*argv, *more, "--json")[1]) for more in ((), ("--no-group",)))
    assert [len(group) for group in together["groups"]] == [3, 3]
    assert apart["groups"] == []
    assert together["price"]["trial_hours"] < apart["price"]["trial_hours"]
    assert run_sweep(*argv, "--group", "2", "--no-group")[0] == 2


def test_resources_of_the_command_line_go_before_those_of_the_file(
    place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    argv = ("plan", place.write(swap={"seeds = [0]": "seeds = [0]\nresources = { cpu = 2, gpu = 2 }"}), "--profile")
    assert "a trial needs 2 GPU, but this machine has 0" in run_sweep(*argv, "paper")[1]
    assert "a trial needs 0.25 GPU, but" in run_sweep(*argv, "paper", "--gpu", "0.25")[1]
    auto = run_sweep(*argv, "paper", "--gpu", "auto")[1]
    assert "a trial needs 1 GPU, but" in auto
    assert "gpu: shares are measured when the run starts" in auto
    none = run_sweep(*argv, "paper", "--gpu", "0", "--cpu", "4096")[1]
    assert "GPU" not in none
    assert "a trial needs 4096 CPU, but" in none
    assert "a trial needs 8192 CPU, but" in run_sweep(*argv, "demo", "--cpu", "8192")[1]  # which has resources, too


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--gpu", "1.5"), "--gpu 1.5: a part of one GPU, or a whole number of them"),
        (("--gpu", "-1"), "--gpu -1: Input should be greater than or equal to 0"),
        (("--cpu", "0"), "--cpu 0: Input should be greater than 0"),
        (("--cpu", "nan"), "--cpu nan: "),
        (("--passes", "cuda_graphs"), "passes 'cuda_graphs' needs a GPU, and these resources have none; give gpu = 1"),
        (("--passes", "quick"), "argument --passes: invalid choice: 'quick' (choose from"),
        (("--gpu", "much"), "'much' is neither a number of GPUs nor 'auto'"),
    ],
)
def test_amounts_that_are_none_are_refused(argv: tuple[str, str], says: str, place: Any, run_sweep: Run) -> None:
    code, _, err = run_sweep("plan", place.write(), "--profile", "paper", *argv)
    assert code == 2
    assert says in err


def test_plan_as_json(swept: Any, run_sweep: Run) -> None:
    content = answer(run_sweep, "plan", "cudfkd/fig9", "--profile", "demo")
    (plan,) = content["plans"]
    assert content["counts"] == {"done": 2, "failed": 1, "partial": 1, "new": 6}
    assert set(plan["states"]) == set(plan["names"])
    assert len(plan["cells"]) == 9
    assert all(cell["trials"]["0"] in plan["names"] for cell in plan["cells"])
    price = content["price"]
    assert (price["known"], price["probed"], price["computed"], price["unknown"]) == (8, 0, 0, 0)
    assert price["trial_hours_80"][0] < price["trial_hours"] < price["trial_hours_80"][1]
    assert content["faults"] == []


def test_status_and_why_as_json(swept: Any, run_sweep: Run) -> None:
    status = answer(run_sweep, "status", "cudfkd/fig9", "--profile", "demo")
    assert status == {"cudfkd/fig9 [demo]": {"done": 2, "failed": 1, "partial": 1, "new": 6}}
    (cause,) = answer(run_sweep, "why", "cudfkd/fig9", "--profile", "demo", code=1)
    assert cause["cause"] == "epoch 1: train/loss = nan"
    assert len(cause["trials"]) == 1
    assert cause["log"].endswith("log.txt")
    assert answer(run_sweep, "why", "cudfkd/fig7", "--profile", "demo") == []


def test_check_as_json_tells_faults_and_exits_with_two(place: Any, run_sweep: Run) -> None:
    assert answer(run_sweep, "check", "cudfkd/*") == {
        "experiments": [f"cudfkd/fig{n}" for n in range(2, 11)] + [f"cudfkd/table{n}" for n in range(1, 6)],
        "faults": [],
    }
    place.write(swap={'method = "kd"': 'method = "kdd"'})
    content = answer(run_sweep, "check", "grid.toml", code=2)
    assert len(content["faults"]) == 1
    assert "'kdd'" in content["faults"][0]


@pytest.mark.parametrize("verb", ["run", "sync", "data"])
def test_verbs_that_have_no_json_refuse_it(
    verb: str, place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, _, err = run_sweep(verb, "cudfkd/fig9", "--profile", "demo", "--json")
    assert code == 2
    assert "--json" in err


# --- why, status, sync, gc -------------------------------------------------------------------------------------------


def test_why_groups_equal_causes_and_shows_the_first_log(place: Any, run_sweep: Run) -> None:
    plan = place.plan(place.write())
    trials = [trial for trial in plan.trials.values() if trial.method == "kd"]
    for trial, cause in zip(trials, ("loss is nan", "loss is nan", "disk is full"), strict=False):
        place.train(trial, end="failed", cause=cause)
    code, out, _ = run_sweep("why", "grid.toml")
    assert code == 1
    assert "2 failed: loss is nan\n    tiny/grid [paper] pair=A temperature=2 seed=0\n" in out
    assert "1 failed: disk is full" in out
    assert out.count("log: ") == 2
    assert "waiting" not in out


def test_what_a_search_suggested_is_seen_by_status_why_and_sync(
    tracked_place: Any, run_sweep: Run, search_text: str
) -> None:
    from sweeps import search
    from sweeps.queue import Queue

    place = tracked_place
    plan = place.plan(place.write(search_text, "search.toml"))
    assert run_sweep("status", "search.toml")[1].endswith("0 trials: none\n")
    assert not search.exists(place.settings)
    queue = Queue([plan], search.studies_of(plan, place.settings, 3), place.state)
    while (digest := queue.next()) is not None:
        failed = queue.names[digest].startswith("#1")
        place.train(queue.trials[digest], end="failed" if failed else "done", cause="loss is nan")
        queue.release(digest, "failed" if failed else "done")
    assert "4 trials: 3 done, 1 failed" in run_sweep("status", "search.toml")[1]
    code, out, _ = run_sweep("why", "search.toml")
    assert code == 1
    assert "1 failed: loss is nan\n    tiny/search [paper] #1 temperature=" in out
    for _ in range(2):
        code, out, _ = run_sweep("sync", "search.toml")
        assert (code, out) == (0, "tiny/search [paper]: 4 trials in step\n")
    store = client(place.settings)
    runs = runs_in(store)
    assert sorted(run.info.status for run in runs) == ["FAILED", "FAILED", "FINISHED", "FINISHED", "FINISHED"]
    (parent,) = [run for run in runs if run.data.tags["sweeps.role"] == "parent"]
    assert parent.info.status == "FAILED"
    assert "search.json" in [file.path for file in store.list_artifacts(parent.info.run_id)]


def test_sync_leaves_out_what_was_never_started(tracked_place: Any, run_sweep: Run) -> None:
    assert run_sweep("sync", "--profile", "demo") == (0, "", "")
    assert len(client(tracked_place.settings).search_experiments()) == 1  # MLflow's own


def test_gc_lists_first_and_deletes_only_when_told(place: Any, run_sweep: Run) -> None:
    plan = place.plan(place.write())
    failed, partial, done = list(plan.trials.values())[:3]
    place.train(failed, end="failed")
    place.train(partial, (50.0,), end=None)
    place.train(partial, (60.0,), end=None)  # the first attempt's checkpoint is of no use any more
    place.train(done)
    answers = place.state / "answers"
    answers.mkdir()
    for name in ("0" * 64 + ".pt", ".1.pt.ab.tmp"):  # one that is whole, one of a writer that was killed
        (answers / name).touch()
    code, out, _ = run_sweep("gc")
    assert code == 0
    assert "4 files" in out
    assert "could be freed with --yes" in out
    assert all(Path(line).exists() for line in out.splitlines()[:-1])
    assert run_sweep("gc", "--yes")[1].startswith("4 files")
    assert not list(answers.iterdir())
    assert run_sweep("gc")[1].startswith("0 files")
    status = attempts.read_status(place.state, partial.digest())
    assert status.folder is not None
    assert (status.folder / "checkpoint.pt").exists()
    assert len(attempts.rows(status)) == 2


def test_gc_of_an_empty_state_root(place: Any, run_sweep: Run) -> None:
    assert run_sweep("gc")[:2] == (0, "0 files, 0.0 MiB could be freed with --yes\n")


def test_ui_of_a_server_names_its_address_without_the_password(
    place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@tracking:5000")
    code, out, err = run_sweep("ui")
    assert code == 0
    assert "http://me:***@tracking:5000" in out
    assert "s3cret" not in out + err


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["list"], ["list", "--profile", "demo", "--json"]])
def test_light_commands_import_nothing_heavy(argv: list[str], place: Any) -> None:
    code = (
        "import sys\nfrom sweeps.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna', 'pandas', 'trainers.config') if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True, cwd=place.folder
    )
    assert done.stderr == "[]\n"
    assert done.stdout


def test_a_reader_that_goes_away_is_no_fault(place: Any) -> None:
    command = f"{shlex.quote(sys.executable)} -m sweeps.cli list | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=place.folder)
    assert done.stdout.splitlines()[1] == "0"
    assert done.stderr == ""


def test_modules_in_the_working_folder_are_found(place: Any, user_modules: Path, run_sweep: Run) -> None:
    place.write(
        swap={
            'method = "kd"\nhparams = { ce_weight = 0.25 }': 'method = { module = "my_pkg.my_method" }',
            '"hparams.temperature"': '"hparams.gain"',
        }
    )
    assert run_sweep("check", "grid.toml")[:2] == (0, "1 experiments, no fault\n")
