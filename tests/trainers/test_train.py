"""The loop: same bits after a kill at any epoch, and every way in which a trial can end."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers import attempts, checkpoint, data, metrics, models
from trainers.attempts import State, machine_fault, read_status
from trainers.config import Trial, Upstream
from trainers.errors import ConfigError, TrialError
from trainers.run import run_trial
from trainers.train import Epoch, load_weights, require_runnable, train, trial_folder

MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")


def run(trial: Trial, root: Path) -> list[Epoch]:
    return list(run_trial(trial, root, root))


def weights(trial: Trial, root: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]
    return state


def as_bytes(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def rows(trial: Trial, root: Path) -> list[dict[str, float]]:
    found = attempts.rows(read_status(root, trial.digest()))
    return [{name: value for name, value in row.items() if not name.startswith(MEASURED)} for row in found]


def cause(trial: Trial, root: Path) -> str:
    status = read_status(root, trial.digest())
    assert status.state is State.FAILED
    error = json.loads((trial_folder(root, trial.digest()) / "error.json").read_text())
    assert error == status.entry["error"]
    return str(error["cause"])


def some_trials(tiny: Any) -> dict[str, Trial]:
    return {
        "ce": tiny.ce(epochs=4, keep="best", schedule="step", milestones=(2,), weight_decay=1e-4),
        "kd": tiny.kd(epochs=3, warmup_epochs=2, nesterov=True),
        "cudfkd": tiny.cudfkd(
            {"alpha": 1.0, "adv_init": 0.2, "k_begin": 0.0, "k_end": 1.0}, epochs=4, artifact_epochs=(1,)
        ),
    }


@pytest.mark.parametrize("name", ["ce", "kd", "cudfkd"])
def test_broken_after_each_epoch_gives_the_same_bits(name: str, tiny: Any, new_root: Callable[[], Path]) -> None:
    trial = some_trials(tiny)[name]
    whole, broken = new_root(), new_root()
    assert [epoch.number for epoch in run(trial, whole)] == list(range(trial.protocol.epochs))
    numbers = []
    for _ in range(trial.protocol.epochs):
        epochs = run_trial(trial, broken, broken)
        numbers.append(next(epochs).number)
        epochs.close()
        assert read_status(broken, trial.digest()).state is State.PARTIAL
    assert run(trial, broken) == []  # every epoch was there: only the seal was missing
    assert numbers == list(range(trial.protocol.epochs))
    assert as_bytes(weights(trial, whole)) == as_bytes(weights(trial, broken))
    assert rows(trial, whole) == rows(trial, broken)
    assert len(rows(trial, whole)) == trial.protocol.epochs
    results = [read_status(root, trial.digest()).result for root in (whole, broken)]
    assert results[0].keys() == results[1].keys()
    assert all(results[0][key] == results[1][key] for key in results[0] if not key.startswith("time/"))


KILLED = """
import json, os, sys
from pathlib import Path
from trainers import attempts
from trainers.config import Trial
from trainers.run import run_trial

append = attempts.Attempt.append

def die_before_the_journal(self, number, row):
    if number == 1:
        os._exit(9)
    append(self, number, row)

attempts.Attempt.append = die_before_the_journal
root = Path(sys.argv[1])
list(run_trial(Trial.model_validate_json(sys.stdin.read()), root, root))
"""


def test_killed_between_checkpoint_and_journal(tiny: Any, new_root: Callable[[], Path]) -> None:
    trial = some_trials(tiny)["cudfkd"]
    whole, broken = new_root(), new_root()
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(broken)], input=trial.model_dump_json().encode(), timeout=120
    )
    assert child.returncode == 9
    status = read_status(broken, trial.digest())
    assert status.state is State.PARTIAL
    assert len(attempts.rows(status)) == 1  # the journal has not heard of epoch 1, which the checkpoint holds
    assert [epoch.number for epoch in run(trial, broken)] == [2, 3]
    assert read_status(broken, trial.digest()).number == 3  # claim, claim, seal
    assert (
        json.loads((trial_folder(broken, trial.digest()) / "attempts" / "2" / "claim.json").read_text())[
            "accepted_epochs"
        ]
        == 2
    )
    run(trial, whole)
    assert as_bytes(weights(trial, whole)) == as_bytes(weights(trial, broken))
    assert rows(trial, whole) == rows(trial, broken)


def test_rows_hold_what_is_promised(tiny: Any, root: Path) -> None:
    trial = some_trials(tiny)["cudfkd"]
    run(trial, root)
    last = attempts.rows(read_status(root, trial.digest()))[-1]
    promised = {
        f"test/{name}" for name in ("acc1_pct", "acc5_pct", "agree1_pct", "loyalty", "loyalty_nat", "loyalty_code")
    }
    promised |= {
        f"train/{name}"
        for name in ("loss", "loss_kd", "lambda", "alpha_adv", "mean_weight", "lr", "images_per_s", "peak_memory_mib")
    }
    promised |= {f"train/loss_synthesis_{name}" for name in ("bn", "one_hot", "balance", "adversarial")}
    promised |= {"val/acc1_pct", "val/acc5_pct", "time/train_s", "time/total_s", "epoch", "timestamp_ms"}
    assert promised <= set(last)
    assert last["train/lambda"] == pytest.approx(2.0 + 1e-4 * 16)  # 4 epochs of 4 updates
    assert last["train/alpha_adv"] == pytest.approx(0.2 + 1.0 * 2)  # epoch 3 of 4 with the whole run as ramp
    assert 0 < last["time/train_s"] < last["time/total_s"]
    assert all(math.isfinite(value) for value in last.values())
    result = read_status(root, trial.digest()).result
    assert result["last/test/acc1_pct"] == last["test/acc1_pct"]
    assert json.loads((trial_folder(root, trial.digest()) / "result.json").read_text()) == result


def test_artifacts_at_declared_epochs_and_the_last(tiny: Any, root: Path) -> None:
    trial = some_trials(tiny)["cudfkd"]
    run(trial, root)
    folder = trial_folder(root, trial.digest()) / "artifacts"
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == sorted(
        f"epoch_{epoch:04d}/{name}"
        for epoch in (1, 3)
        for name in ("samples.png", "samples_by_class.png", "difficulty.json", "loyalty.json")
    )


def test_done_trial_leaves_weights_and_result_only(tiny: Any, root: Path) -> None:
    trial = tiny.kd()
    run(trial, root)
    folder = trial_folder(root, trial.digest())
    assert {file.name for file in folder.iterdir()} == {
        "attempts",
        "artifacts",
        "result.json",
        "trial.json",
        "weights.pt",
    }
    left = {file.name for file in folder.rglob("attempts/*/*")}
    assert left == {"claim.json", "heartbeat", "journal.jsonl", "log.txt", "made_with.json", "released"}
    assert Trial.model_validate(json.loads((folder / "trial.json").read_text())["trial"]) == trial
    assert "epoch=2 test/acc1_pct=" in (folder / "attempts" / "1" / "log.txt").read_text()


def test_keep_best_keeps_the_best_on_val(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=4, keep="best", lr=0.3)
    run(trial, root)
    images = data.load(trial.data, root)
    network = models.build("resnet8", classes=10, channels=1, size=8)
    network.load_state_dict(weights(trial, root))
    assert images.val is not None
    logits = metrics.predict(network, images.val, images.info)
    accuracies = [row["val/acc1_pct"] for row in rows(trial, root)]
    assert float(metrics.acc_pct(logits, images.val.labels)) == max(accuracies)


def test_keep_last_keeps_the_last(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=3, lr=0.3)
    run(trial, root)
    images = data.load(trial.data, root)
    network = models.build("resnet8", classes=10, channels=1, size=8)
    network.load_state_dict(weights(trial, root))
    logits = metrics.predict(network, images.test, images.info)
    assert float(metrics.acc_pct(logits, images.test.labels)) == rows(trial, root)[-1]["test/acc1_pct"]


def test_stops_at_the_asked_accuracy(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=50, stop_at_acc1_pct=5.0)
    epochs = run(trial, root)
    assert len(epochs) < 5
    assert epochs[-1].last
    assert epochs[-1].row["test/acc1_pct"] >= 5
    assert all(epoch.row["test/acc1_pct"] < 5 and not epoch.last for epoch in epochs[:-1])
    assert read_status(root, trial.digest()).entry["epochs"] == len(epochs)


def test_stopped_at_the_asked_accuracy_stays_stopped_after_a_kill(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=50, stop_at_acc1_pct=5.0)
    epochs = run_trial(trial, root, root)
    while not next(epochs).last:
        pass
    epochs.close()
    assert run(trial, root) == []
    assert read_status(root, trial.digest()).state is State.DONE


def test_accuracy_never_reached_fails_with_the_best(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=2, stop_at_acc1_pct=100.0)
    with pytest.raises(TrialError, match=r"never reached 100 % in 2 epochs \(best \d+\.\d\d %\)"):
        run(trial, root)
    assert "never reached" in cause(trial, root)


def test_loss_that_is_not_finite_names_epoch_and_term(tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.methods import kd

    real, calls = kd.kd_loss, [0]

    def breaks_in_epoch_1(*arguments: Any) -> Tensor:
        calls[0] += 1
        return real(*arguments) * (
            math.inf if calls[0] == 7 else 1
        )  # 80 images in batches of 16: five updates an epoch

    monkeypatch.setattr(kd, "kd_loss", breaks_in_epoch_1)
    trial = tiny.kd()
    with pytest.raises(TrialError, match=r"epoch 1: train/loss = (nan|inf), .*train/loss_kd = (nan|inf)"):
        run(trial, root)
    assert cause(trial, root).startswith("epoch 1: ")
    assert len(rows(trial, root)) == 1  # the epoch before stays on record
    assert not (trial_folder(root, trial.digest()) / "weights.pt").exists()


def test_generator_that_diverges_names_its_term(tiny: Any, root: Path) -> None:
    trial = tiny.cudfkd({"generator_lr": 1e30})
    with pytest.raises(TrialError, match=r"epoch 0: .*train/loss_synthesis_\w+ = nan"):
        run(trial, root)


def test_weights_broken_by_the_last_update_are_no_result(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=1, batch_size=80, lr=1e38)  # one update, whose loss is taken before the weights break
    with pytest.raises(TrialError, match="epoch 0: the student's logits on test are not finite"):
        run(trial, root)
    assert "not finite" in cause(trial, root)


def test_trial_without_epochs_keeps_its_first_weights(tiny: Any, root: Path) -> None:
    trial = tiny.ce(epochs=0)
    assert run(trial, root) == []
    assert read_status(root, trial.digest()).result == {}
    fresh = models.build("resnet8", classes=10, channels=1, size=8, seed=0, role="student")
    assert as_bytes(weights(trial, root)) == as_bytes(fresh.state_dict())


def test_student_and_order_depend_on_the_seed(tiny: Any, root: Path) -> None:
    one, other = tiny.ce(epochs=1), tiny.ce(epochs=1, seed_of_trial=1)
    for trial in (one, other):
        run(trial, root)
    assert as_bytes(weights(one, root)) != as_bytes(weights(other, root))


def test_measuring_the_teacher_against_itself_agrees(tiny: Any, root: Path) -> None:
    trial = tiny.evaluate(tiny.teacher())
    (epoch,) = run(trial, root)
    assert epoch.last
    assert epoch.row["test/agree1_pct"] == 100
    assert epoch.row["test/loyalty"] == epoch.row["test/loyalty_code"] == 1
    taught = rows(tiny.teacher(), root)[-1]
    assert epoch.row["test/acc1_pct"] == taught["test/acc1_pct"]
    assert as_bytes(weights(trial, root)) == as_bytes(weights(tiny.teacher(), root))


def test_measuring_a_student_equals_what_its_training_saw(tiny: Any, root: Path) -> None:
    student = tiny.kd()
    run(student, root)
    (epoch,) = run(tiny.evaluate(student), root)
    seen = rows(student, root)[-1]
    measured = {name: value for name, value in epoch.row.items() if name.startswith(("test/", "val/"))}
    assert measured == {name: seen[name] for name in measured}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def broken_off(trial: Trial, root: Path) -> Path:
    """Trains one epoch, and gives the checkpoint's place."""
    epochs = run_trial(trial, root, root)
    next(epochs)
    epochs.close()
    folder = read_status(root, trial.digest()).folder
    assert folder is not None
    return folder / "checkpoint.pt"


def test_corrupt_checkpoint_fails_that_trial_alone(tiny: Any, root: Path) -> None:
    trial, neighbour = tiny.kd(), tiny.kd({"temperature": 2.0})
    flip(broken_off(trial, root))
    broken_off(neighbour, root)
    with pytest.raises(
        TrialError, match=r"cannot go on from .*checkpoint\.pt: it is corrupt; running the trial again starts it over"
    ):
        run(trial, root)
    assert "corrupt" in cause(trial, root)
    assert [epoch.number for epoch in run(neighbour, root)] == [1, 2]
    assert [epoch.number for epoch in run(trial, root)] == [0, 1, 2]  # asked for again, it starts over
    assert read_status(root, trial.digest()).state is State.DONE
    assert not (trial_folder(root, trial.digest()) / "error.json").exists()


def test_checkpoint_with_an_object_is_refused(tiny: Any, root: Path) -> None:
    trial = tiny.kd()
    torch.save({"rows": [], "loop": Path("x")}, broken_off(trial, root))
    with pytest.raises(TrialError, match="it is corrupt"):
        run(trial, root)
    assert read_status(root, trial.digest()).state is State.FAILED


def test_checkpoint_of_another_trial_is_refused(tiny: Any, root: Path) -> None:
    trial, other = tiny.kd(), tiny.ce(trial={"student": "resnet14"})
    broken_off(trial, root).write_bytes(broken_off(other, root).read_bytes())
    with pytest.raises(TrialError, match=r"checkpoint\.pt does not fit this trial: .*state_dict"):
        run(trial, root)
    assert "does not fit" in cause(trial, root)


def imported(tmp_path: Path, network: str) -> Upstream:
    file = tmp_path / f"{network}.pt"
    torch.save(models.build(network, classes=10, channels=1, size=8, seed=1, role="teacher").state_dict(), file)
    return Upstream(weights=str(file), sha256=checkpoint.file_sha256(file), network=network)


def test_imported_weights_serve_as_teacher(tiny: Any, root: Path, tmp_path: Path) -> None:
    trial = tiny.kd(epochs=1, trial={"teacher": imported(tmp_path, "resnet8")})
    assert len(run(trial, root)) == 1


def test_weights_of_another_network_are_refused(tiny: Any, root: Path, tmp_path: Path) -> None:
    wrong = imported(tmp_path, "resnet14").model_copy(update={"network": "resnet8"})
    trial = tiny.kd(epochs=1, trial={"teacher": wrong})
    with pytest.raises(TrialError, match=r"does not hold weights of resnet8: .*Unexpected key"):
        run(trial, root)
    assert "does not hold weights of resnet8" in cause(trial, root)


def test_changed_missing_and_dangerous_imports_are_refused(tiny: Any, root: Path, tmp_path: Path) -> None:
    network = models.build("resnet8", classes=10, channels=1, size=8)
    good = imported(tmp_path, "resnet8")
    file = Path(str(good.weights))
    with pytest.raises(TrialError, match="is not the file the trial names"):
        load_weights(network, good.model_copy(update={"sha256": "0" * 64}), root, root)
    with pytest.raises(TrialError, match="weights of resnet8 are missing"):
        load_weights(network, good.model_copy(update={"weights": str(tmp_path / "none.pt")}), root, root)
    torch.save(network, file)
    with pytest.raises(TrialError, match="corrupt or not a checkpoint"):
        load_weights(network, good.model_copy(update={"sha256": checkpoint.file_sha256(file)}), root, root)
    with pytest.raises(TrialError, match=r"run the trial .* first"):
        load_weights(network, Upstream(trial=tiny.ce(epochs=9), network="resnet8"), root, root)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_no_fault_of_the_trial_which_goes_on(
    code: int, tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, real = tiny.kd(), checkpoint.replace_bytes

    def full(path: Path, content: bytes) -> None:
        if path.name == "checkpoint.pt":
            raise OSError(code, os.strerror(code), str(path))
        real(path, content)

    epochs = run_trial(trial, root, root)
    next(epochs)
    monkeypatch.setattr(checkpoint, "replace_bytes", full)
    with pytest.raises(OSError, match=os.strerror(code)):
        next(epochs)
    status = read_status(root, trial.digest())
    assert status.state is State.PARTIAL
    fault = machine_fault(status)
    assert fault is not None
    assert fault["kind"] == "disk"
    assert os.strerror(code) in fault["cause"]
    monkeypatch.setattr(checkpoint, "replace_bytes", real)
    assert [epoch.number for epoch in run(trial, root)] == [1, 2]


def test_disk_too_full_for_the_seal_leaves_a_trial_that_goes_on(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, real = tiny.kd(), checkpoint.replace_bytes

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    epochs = run_trial(trial, root, root)
    next(epochs)
    monkeypatch.setattr(checkpoint, "replace_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        next(epochs)
    monkeypatch.setattr(checkpoint, "replace_bytes", real)
    assert read_status(root, trial.digest()).state is State.PARTIAL
    assert [epoch.number for epoch in run(trial, root)] == [1, 2]


def changed(trial: Trial, **fields: Any) -> Trial:
    return trial.model_copy(update=fields)


def test_what_cannot_be_run_is_said_before_it_costs_anything(tiny: Any, root: Path) -> None:
    kd, measure = tiny.kd(), tiny.evaluate(tiny.teacher())
    require_runnable(kd)
    require_runnable(measure)
    for trial, message in (
        (changed(kd, kind="datafree"), "method 'kd' is of kind 'distill', the trial says 'datafree'"),
        (changed(kd, teacher=None), "method 'kd' needs a teacher"),
        (changed(kd, hparams={"tau": 4}), r"hparams.tau: Extra inputs .*known: ce_weight, kd_weight, temperature"),
        (changed(kd, hparams={"temperature": -1}), r"hparams.temperature: .*greater than 0 \(got -1\)"),
        (changed(kd, versions={"method": 99, "loop": 1}), r"resolved for versions .*99.*resolve it again"),
        (changed(kd, method="kdd"), "unknown method 'kdd'"),
        (changed(kd, subject=kd.teacher), "a subject is what an evaluate or probe trial looks at"),
        (changed(measure, subject=None), "a subject is what an evaluate or probe trial looks at"),
    ):
        with pytest.raises(ConfigError, match=message):
            require_runnable(trial)
    with pytest.raises(ConfigError) as caught:
        require_runnable(changed(kd, teacher=None, hparams={"tau": 4, "temperature": -1}))
    assert len(caught.value.faults) == 3


def test_data_free_trial_without_updates_per_epoch(tiny: Any, root: Path) -> None:
    trial = tiny.cudfkd(updates_per_epoch=None)
    with pytest.raises(ConfigError, match="protocol 'tiny': a data-free method needs updates_per_epoch"):
        run(trial, root)
    assert "updates_per_epoch" in cause(trial, root)


def test_fault_in_a_users_method_is_sealed_with_its_place(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.methods import kd

    monkeypatch.setattr(kd.Method, "terms", lambda self, batch: {}["no such key"])
    with pytest.raises(KeyError):
        run(tiny.kd(), root)
    assert "no such key" in cause(tiny.kd(), root)
    assert "Traceback" in read_status(root, tiny.kd().digest()).entry["error"]["detail"]


def test_memory_fault_leaves_the_trial_to_a_larger_machine(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.methods import kd

    def out_of_memory(*arguments: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(kd, "kd_loss", out_of_memory)
    with pytest.raises(MemoryError):
        run(tiny.kd(), root)
    monkeypatch.undo()
    assert read_status(root, tiny.kd().digest()).state is State.PARTIAL
    assert len(run(tiny.kd(), root)) == 3


def test_train_alone_needs_no_claim(tiny: Any, root: Path, tmp_path: Path) -> None:
    trial = tiny.kd()
    epochs = list(train(trial, root, tmp_path / "attempts" / "1", data_root=root))
    assert [epoch.number for epoch in epochs] == [0, 1, 2]
    assert [epoch.last for epoch in epochs] == [False, False, True]
    assert list(train(trial, root, tmp_path / "attempts" / "1", data_root=root)) == []
    assert (tmp_path / "attempts" / "1" / "weights.pt").exists()
