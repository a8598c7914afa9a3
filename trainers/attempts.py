"""The trial's directory: who may write, what counts, and how a trial ends. Works on any file system with exclusive rename.

`<state root>/<dd>/<digest>/attempts/` is a log. Each entry is made whole in a temporary folder and renamed into place, which
fails if the number is taken, so all parties agree on the order. An entry is a claim (somebody trains from here on) or a
seal (the trial is done, failed or stopped). An owner whose number is no longer the newest has been fenced off: it cannot
seal, and nobody reads what it writes. Killing any party at any moment leaves a log that the next one can go on from.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainers import checkpoint, faults
from trainers.config import Execution, Trial
from trainers.errors import Fenced, TrialError
from trainers.train import Row, trial_folder

LEASE_S = 30.0
"""An owner whose heartbeat has not moved for so long, on the observer's own monotonic clock, may be taken over."""
BEAT_S = 2.0
FAULT = "fault.json"
POOL = "pool"
"""Subfolder of an attempt whose files are written once; a checkpoint refers to them, so they follow it."""
ARTIFACTS = "artifacts"
"""Subfolder of an attempt, and of the trial once it is done: what an old owner still writes lands where nobody looks."""


class State(StrEnum):
    """What a trial's directory says of it."""

    NEW = "new"
    PARTIAL = "partial"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


SEALS = (State.DONE, State.FAILED, State.STOPPED)


@dataclass(frozen=True)
class Status:
    """State of a trial as its directory has it.

    Attributes:
        state: see `State`.
        number: newest attempt, 0 where there is none.
        entry: content of its `claim.json`: host, process, accepted epochs; for a seal the result, cause or reason.
        folder: the folder whose journal counts: the newest claim's.
    """

    state: State
    number: int
    entry: dict[str, Any]
    folder: Path | None

    @property
    def result(self) -> dict[str, Any]:
        """Content of the result of a done trial."""
        content: dict[str, Any] = self.entry["result"]
        return content


def record_id(state_root: Path, digest: str) -> str:
    """Name of this trial's directory, fixed by its first claim: two state roots that hold the same trial differ in it."""
    return str(_entry(trial_folder(state_root, digest) / "attempts" / "1")["record"])


def fixed_execution(state_root: Path, digest: str) -> Execution | None:
    """What the trial's first claim fixed; None where nobody has begun it."""
    try:
        entry = _entry(trial_folder(state_root, digest) / "attempts" / "1")
    except FileNotFoundError:
        return None
    return Execution.model_validate(entry["execution"])


class Busy(Exception):
    """Somebody else is training this trial."""


def read_status(state_root: Path, digest: str) -> Status:
    """The state of a trial; a directory that does not exist is a new one."""
    attempts = trial_folder(state_root, digest) / "attempts"
    number = newest(attempts)
    if number == 0:
        return Status(State.NEW, 0, {}, None)
    entry = _entry(attempts / str(number))
    kind = entry["kind"]
    if kind == "claim":
        return Status(State.PARTIAL, number, entry, attempts / str(number))
    return Status(State(kind), number, entry, attempts / str(int(entry["attempt"])))


def newest(attempts: Path) -> int:
    """Largest attempt number, 0 where there is none."""
    try:
        return max((int(name) for name in os.listdir(attempts) if name.isdigit()), default=0)
    except FileNotFoundError:
        return 0


def rows(status: Status) -> list[Row]:
    """The rows of the attempt that counts, in order; a torn last line is left out, since the checkpoint holds it."""
    if status.folder is None:
        return []
    try:
        text = (status.folder / "journal.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    result: list[Row] = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row.get("epoch") != len(result):
            break
        result.append(row)
    if status.state is State.DONE:
        result = result[: int(status.entry["epochs"])]
    return result


class Attempt:
    """A claim that this process holds. Use as a context manager: the heart beats inside."""

    def __init__(self, trial_dir: Path, number: int, execution: Execution, resumed_epochs: int) -> None:
        self.trial_dir = trial_dir
        self.number = number
        self.folder = trial_dir / "attempts" / str(number)
        self.execution = execution
        self.resumed_epochs = resumed_epochs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{trial_dir.name[:8]}", daemon=True)

    def __enter__(self) -> Attempt:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.release()

    def release(self) -> None:
        """Stops the heart and lets anybody go on from the last checkpoint at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(
            OSError
        ):  # a full disk: the lease runs out instead, and the first fault stays the one that is seen
            (self.folder / "released").touch()

    def require_ownership(self) -> None:
        """Raises Fenced when somebody has taken the trial over."""
        if newest(self.trial_dir / "attempts") != self.number:
            raise Fenced(f"attempt {self.number} of {self.trial_dir.name[:12]} was taken over")

    def append(self, number: int, row: Row) -> None:
        """Adds an epoch, already safe in the checkpoint, to the journal."""
        self.require_ownership()
        line = json.dumps({"epoch": number, "timestamp_ms": int(time.time() * 1000), **row}) + "\n"
        with open(self.folder / "journal.jsonl", "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        faults.point("row-written")

    def finish(self, result: dict[str, Any], epochs: int) -> None:
        """Seals the trial as done and publishes its weights, artifacts and result.

        Raises:
            Fenced: somebody has taken the trial over; nothing was published.
        """
        self._seal({"kind": State.DONE.value, "attempt": self.number, "epochs": epochs, "result": result})
        faults.point("sealed")
        publish(self.trial_dir)

    def fail(self, cause: str, kind: str, detail: str = "") -> None:
        """Ends the trial as failed; `sweep why` shows the cause."""
        error = {"cause": cause, "type": kind, "detail": detail, "log": str(self.folder / "log.txt")}
        self._seal({"kind": State.FAILED.value, "attempt": self.number, "error": error})
        publish(self.trial_dir)

    def note_machine_fault(self, cause: str, kind: str) -> None:
        """As the function of this name, for the attempt in hand."""
        note_machine_fault(self.folder, cause, kind)

    def _seal(self, entry: dict[str, Any]) -> None:
        if not _enter(self.trial_dir / "attempts", self.number + 1, {**entry, "timestamp_ms": int(time.time() * 1000)}):
            raise Fenced(f"attempt {self.number} of {self.trial_dir.name[:12]} was taken over")

    def _beat(self) -> None:
        count = 0
        while True:
            with contextlib.suppress(
                OSError
            ):  # a full disk: the lease runs out, and the training loop meets the same error
                checkpoint.replace_bytes(self.folder / "heartbeat", str(count).encode())
            count += 1
            if self._stop.wait(BEAT_S):
                return


def publish(trial_dir: Path) -> None:
    """Makes the files that a seal stands for, `result.json` or `error.json` last; safe to repeat by anybody, also at once."""
    attempts = trial_dir / "attempts"
    entry = _entry(attempts / str(newest(attempts)))
    if entry["kind"] == State.DONE.value:
        owner = attempts / str(entry["attempt"])
        with contextlib.suppress(FileNotFoundError):  # published before
            os.replace(owner / "weights.pt", trial_dir / "weights.pt")
        _move(owner / ARTIFACTS, trial_dir / ARTIFACTS)
        faults.point("weights-published")
        _free(attempts)
        (trial_dir / "error.json").unlink(missing_ok=True)
        faults.point("checkpoints-freed")
        _write_once(trial_dir / "result.json", json.dumps(entry["result"], sort_keys=True, indent=1).encode())
        faults.point("result-written")
    elif entry["kind"] == State.FAILED.value:
        _write_once(trial_dir / "error.json", json.dumps(entry["error"], indent=1).encode())


def _move(source: Path, target: Path) -> None:
    """Moves each file of a tree to its place in another one."""
    for file in [each for each in source.rglob("*") if each.is_file() and each.suffix != ".tmp"]:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # somebody else publishes at the same moment
            os.replace(file, place)


def _free(attempts: Path) -> None:
    """Drops what no attempt of a done trial needs any more."""
    for folder in attempts.iterdir():
        if not folder.name.isdigit():  # a claim that was killed, or one that comes too late
            shutil.rmtree(folder, ignore_errors=True)
            continue
        for leftover in ("checkpoint.pt", "weights.pt", *(file.name for file in folder.glob(".*.tmp"))):
            (folder / leftover).unlink(missing_ok=True)
        for name in (POOL, ARTIFACTS):
            shutil.rmtree(folder / name, ignore_errors=True)


def _write_once(path: Path, content: bytes) -> None:
    """Writes a file that lies there with another content or not at all: one that was published is not touched again."""
    if not path.exists() or path.read_bytes() != content:
        checkpoint.replace_bytes(path, content)


def heal(state_root: Path, digest: str) -> None:
    """Publishes a sealed trial whose owner was killed between seal and files; costs one look otherwise."""
    folder = trial_folder(state_root, digest)
    status = read_status(state_root, digest)
    missing = {State.DONE: "result.json", State.FAILED: "error.json"}.get(status.state)
    if missing is not None and not (folder / missing).exists():
        publish(folder)


def note_machine_fault(attempt: Path, cause: str, kind: str) -> None:
    """Leaves word of what ended an attempt through no fault of the trial, which stays free to be continued.

    Args:
        attempt: its folder.
        kind: "device_memory", "memory", "disk" or "worker".
    """
    content = {"cause": cause, "kind": kind, "timestamp_ms": int(time.time() * 1000)}
    with contextlib.suppress(OSError):  # a full disk: the first fault stays the one that is seen
        checkpoint.replace_bytes(attempt / FAULT, json.dumps(content).encode())


def machine_fault(status: Status) -> dict[str, Any] | None:
    """What `note_machine_fault` wrote of the newest attempt of a partial trial; None where nothing did."""
    if status.state is not State.PARTIAL or status.folder is None:
        return None
    try:
        content: dict[str, Any] = json.loads((status.folder / FAULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def stop(state_root: Path, digest: str, reason: str) -> bool:
    """Seals a partial trial as stopped (cut by a pruner); its checkpoint stays, so a grid that wants it can go on.

    Returns:
        Whether the seal was set; False when the trial moved on meanwhile.
    """
    status = read_status(state_root, digest)
    if status.state is not State.PARTIAL or status.folder is None:
        return False
    entry = {"kind": State.STOPPED.value, "attempt": status.number, "reason": reason, "epochs": len(rows(status))}
    return _enter(
        trial_folder(state_root, digest) / "attempts",
        status.number + 1,
        {**entry, "timestamp_ms": int(time.time() * 1000)},
    )


def claim(trial: Trial, state_root: Path, execution: Execution, *, lease_s: float = LEASE_S) -> Attempt:
    """Takes the trial: first claim, continuation of a sealed or abandoned one, or takeover of one whose owner is gone.

    The new attempt starts with a copy of the last checkpoint, and its journal with the rows that checkpoint holds.

    Raises:
        Busy: its owner is alive, somebody else was faster, or the trial is done.
        TrialError: the checkpoint to continue from is corrupt; the trial was sealed as failed, so that the next claim starts over.
    """
    digest = trial.digest()
    folder = trial_folder(state_root, digest)
    attempts = folder / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    status = read_status(state_root, digest)
    execution = fixed_execution(state_root, digest) or execution
    if status.state is State.DONE:
        publish(folder)
        raise Busy("done")
    if status.state is State.PARTIAL and not _abandoned(attempts / str(status.number), status.entry, lease_s):
        raise Busy(f"attempt {status.number} on {status.entry['host']} is alive")
    accepted: list[Row] = []
    temporary = attempts / f".new-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        source = None if status.folder is None or status.state is State.FAILED else status.folder / "checkpoint.pt"
        if source is not None and source.exists():
            checkpoint.replace_bytes(temporary / "checkpoint.pt", source.read_bytes())
            _share(source.parent / POOL, temporary / POOL)
            _share(source.parent / ARTIFACTS, temporary / ARTIFACTS)
            old = rows(status)
            for number, row in enumerate(_checkpoint_rows(temporary / "checkpoint.pt", source)):
                stamp = old[number]["timestamp_ms"] if number < len(old) else int(time.time() * 1000)
                accepted.append({"epoch": number, "timestamp_ms": stamp, **row})
            journal = "".join(json.dumps(row) + "\n" for row in accepted)
            checkpoint.replace_bytes(temporary / "journal.jsonl", journal.encode())
        entry = {
            "kind": "claim",
            "accepted_epochs": len(accepted),
            "from_attempt": status.number,
            "execution": execution.model_dump(mode="json"),
            **whoami(),
        }
        if status.number == 0:  # tells this directory's run in a shared MLflow from that of another state root
            entry["record"] = uuid.uuid4().hex
        faults.point("claim-prepared")
        if not _enter(attempts, status.number + 1, entry, temporary):
            raise Busy("somebody else was faster")
        faults.point("claimed")
    except FileNotFoundError:
        if newest(attempts) == status.number:
            raise
        raise Busy("it was sealed meanwhile") from None
    except TrialError as error:
        assert status.folder is not None
        _fail_unclaimed(folder, status.number, status.folder, error)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _write_trial_json(folder, trial, execution)
    return Attempt(folder, status.number + 1, execution, len(accepted))


def _share(source: Path, target: Path) -> None:
    """The files of `source` in `target`, as links where the file system has them; a later write in one is not seen in the other."""
    if not source.is_dir():
        return
    target.mkdir()
    for file in sorted(source.iterdir()):
        if file.is_dir():
            _share(file, target / file.name)
        elif file.suffix != ".tmp":
            try:
                os.link(file, target / file.name)
            except OSError:
                shutil.copyfile(file, target / file.name)


def whoami() -> dict[str, Any]:
    """Host, boot and process of the caller, so that others on the same machine can see at once that it is gone."""
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pids": _pid_namespace(),
        "pid": os.getpid(),
        "pid_start": _pid_start(os.getpid()),
    }


def is_gone(entry: dict[str, Any]) -> bool:
    """Whether the process behind a claim is known to be dead; False when it may be alive or runs on another machine."""
    if entry["boot"] != _boot_id() or entry["host"] != socket.gethostname() or entry["pids"] != _pid_namespace():
        return False
    return bool(_pid_start(entry["pid"]) != entry["pid_start"])


def _checkpoint_rows(copy: Path, original: Path) -> list[Row]:
    try:
        found: list[Row] = checkpoint.load(copy)["rows"]
    except (TrialError, KeyError) as error:
        raise TrialError(
            f"cannot go on from {original}: it is corrupt; running the trial again starts it over"
        ) from error
    return found


def _fail_unclaimed(trial_dir: Path, number: int, attempt: Path, error: TrialError) -> None:
    """Seals a trial that cannot be claimed, so that its cause is seen."""
    content = {
        "cause": str(error),
        "type": type(error).__name__,
        "detail": str(error.__cause__),
        "log": str(attempt / "log.txt"),
    }
    entry = {
        "kind": State.FAILED.value,
        "attempt": int(attempt.name),
        "error": content,
        "timestamp_ms": int(time.time() * 1000),
    }
    if _enter(trial_dir / "attempts", number + 1, entry):
        publish(trial_dir)


def _abandoned(folder: Path, entry: dict[str, Any], lease_s: float) -> bool:
    if (folder / "released").exists() or is_gone(entry):
        return True
    seen = _heartbeat(folder)
    waited = time.monotonic()
    while time.monotonic() - waited < lease_s:
        time.sleep(min(0.5, lease_s / 4))
        if _heartbeat(folder) != seen:
            return False
        if (folder / "released").exists() or is_gone(entry):
            return True
    return True


def _heartbeat(folder: Path) -> str:
    try:
        return (folder / "heartbeat").read_text()
    except FileNotFoundError:
        return ""


def _write_trial_json(folder: Path, trial: Trial, execution: Execution) -> None:
    """Writes `trial.json` after the first claim, or after a later one if the first was killed before it could."""
    file = folder / "trial.json"
    if not file.exists():
        content = {
            "trial": trial.model_dump(mode="json"),
            "execution": execution.model_dump(mode="json"),
        }
        checkpoint.replace_bytes(file, json.dumps(content, indent=1, sort_keys=True).encode())


def _enter(attempts: Path, number: int, entry: dict[str, Any], folder: Path | None = None) -> bool:
    """Adds an entry to the log under exactly this number; False when the number is taken."""
    temporary = attempts / f".new-{uuid.uuid4().hex}" if folder is None else folder
    try:
        checkpoint.replace_bytes(temporary / "claim.json", json.dumps(entry).encode())
        os.rename(temporary, attempts / str(number))
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (attempts / str(number)).exists():
            raise
        return False
    return True


def _entry(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "claim.json").read_text(encoding="utf-8"))
    return content


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _pid_namespace() -> str:
    """Containers may share a host's name but not its process numbers."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _pid_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when there is none (or it is only waiting to be reaped)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
