"""Launches of searches over real storages and trial directories, in which values are computed and nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sweeps import search
from sweeps.queue import Queue
from trainers import attempts, checkpoint
from trainers.config import Execution, Trial

Epochs = Callable[[Trial], list[float]]
PEAK_MEMORY = "train/peak_memory_mib"
SEEDS = (3, 0, 1, 2, 5, 4)
"""Six, not in order: they race in the order of the file."""


def quality(trial: Trial) -> float:
    """Best at temperature 4 and weight 0.3; a student's seed adds half a percent each."""
    temperature, weight = float(trial.hparams["temperature"]), float(trial.hparams["ce_weight"])  # type: ignore[arg-type]
    return 90 - 5 * (math.log(temperature) - math.log(4)) ** 2 - 20 * (weight - 0.3) ** 2 + 0.5 * trial.seed


def one_value(trial: Trial) -> list[float]:
    return [quality(trial)]


class Launch:
    """One launch of a search on a place's state root; `go` runs trials one after the other, as at concurrency 1."""

    def __init__(
        self,
        place: Any,
        text: str,
        total: int,
        *,
        profile: str = "paper",
        seeds: Any = None,
        study_url: str | None = None,
        grids: Any = (),
        retry_failed: bool = False,
    ) -> None:
        self.place = place
        place.write(text, "search.toml")
        plan = place.plan(str(place.folder / "search.toml"), profile, seeds=seeds)
        settings = replace(place.settings, study_url=study_url)
        self.studies = search.studies_of(plan, settings, total, retry_failed=retry_failed)
        self.queue = Queue([plan, *grids], self.studies, place.state, retry_failed=retry_failed)
        self.trained: list[str] = []

    def go(self, most: int = 1000, epochs: Epochs = one_value) -> Launch:
        """Runs at most so many suggested trials; the rest is left as a killed driver leaves it."""
        while most > 0 and (digest := self.queue.next()) is not None:
            self.trained.append(digest)
            trial = self.queue.trials[digest]
            if trial.method == "ce":
                self.place.train(trial)
                self.queue.release(digest, "done")
                continue
            self.queue.release(digest, self.run(digest, trial, epochs(trial)))
            most -= 1
        return self

    def run(self, digest: str, trial: Trial, values: list[float], *, most: int = 1000, deaf: bool = False) -> str:
        """Trains on from the last checkpoint; dies after so many epochs, the last of them unheard where the driver is deaf."""
        with attempts.claim(trial, self.place.state, Execution(), lease_s=0.1) as attempt:
            file = attempt.folder / "checkpoint.pt"
            rows: list[dict[str, float]] = checkpoint.load(file)["rows"] if file.exists() else []
            for epoch, value in list(enumerate(values))[len(rows) :]:
                memory = 100.0 + trial.seed - epoch  # largest in the first epoch
                rows.append({"val/acc1_pct": value, "test/acc1_pct": value, PEAK_MEMORY: memory, "time/total_s": 1.0})
                checkpoint.save(file, {"rows": rows})
                attempt.append(epoch, rows[-1])
                dies = epoch + 1 >= most
                if epoch + 1 < len(values) and not (dies and deaf):
                    cut = self.queue.should_prune(digest, epoch, rows[-1])
                    if cut and not dies:
                        assert attempts.stop(self.place.state, digest, "cut")
                        return "stopped"
                if dies:
                    return "died"
            times = {"time/train_s": 10.0 + trial.seed, "time/total_s": 1.0}
            attempt.finish({"best/val/acc1_pct": max(values), **times}, len(values))
        return "done"

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = search.as_json(self.studies)["cells"][0]["suggestions"]
        return found

    @property
    def states(self) -> list[str]:
        return [row["state"] for row in self.rows]

    @property
    def params(self) -> list[dict[str, float]]:
        return [row["params"] for row in self.rows]


def curve(trial: Trial) -> list[float]:
    """Nine epochs that rise to the trial's quality."""
    return [quality(trial) * (epoch + 1) / 9 for epoch in range(9)]


def changed(text: str, *lines: str) -> str:
    assert text.count("startup_trials = 3") == 1
    return text.replace("startup_trials = 3", "\n".join(("startup_trials = 3", *lines)))


def noisy(trial: Trial) -> list[float]:
    """A quality on which seeds differ from suggestion to suggestion, so that some races are close."""
    return [quality(trial) + 8 * math.sin(1000 * float(trial.hparams["temperature"]) * (trial.seed + 1))]  # type: ignore[arg-type]


def racing(text: str) -> str:
    return changed(text, 'pruner = "wilcoxon"').replace("seeds = [0]", f"seeds = {list(SEEDS)}")
