"""Places of a cluster that Tune keeps though no trial of ours runs in them, and how to give them back."""

from __future__ import annotations

import time
from typing import Any

from ray.tune.experiment import Trial

GONE_S = 5.0
"""How long an actor may take to end."""


class Places:
    """The actors of one `Tuner.fit`.

    Tune keeps an ended trial's actor for the next one, and asks Ray for a place as soon as a trial is handed out. Where others wait
    for places both must end, for which Tune has no public call.

    Args:
        controller: Tune's, as it hands it to schedulers.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = getattr(controller, "_tune_controller", controller)

    def let_go(self) -> None:
        """Ends actors that wait for a trial; where no trial is left, sees to it now, as Tune hears of nothing then for minutes."""
        tune = self._controller
        if tune._actor_cache.num_cached_objects and not tune._pending_trials:  # else they go to those first
            tune._cleanup_cached_actors(force_all=True)
        if all(trial.is_finished() for trial in tune.get_live_trials()):
            end = time.monotonic() + GONE_S
            while tune._actor_manager.num_live_actors and time.monotonic() < end:
                tune._actor_manager.next(timeout=0.2)

    def unstarted(self) -> list[Trial]:
        """Trials that Ray was asked for a place for and has none yet, the newest first."""
        tune = self._controller
        waiting = [
            trial
            for trial in tune._pending_trials
            if trial in tune._trial_to_actor and not tune._actor_manager.is_actor_started(tune._trial_to_actor[trial])
        ]
        order = {trial: number for number, trial in enumerate(tune.get_trials())}
        return sorted(waiting, key=lambda trial: -order[trial])

    def withdraw(self, trial: Trial) -> None:
        """Takes a trial that has no place yet out of Ray's queue; Tune sees it end."""
        trial.update_last_result({"outcome": "withdrawn"})  # Tune prints a line for a trial that ends without any
        if trial in self._controller._staged_trials:
            self._controller._unstage_trial_with_resources(trial)
        self._controller.stop_trial(trial)
