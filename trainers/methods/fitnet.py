"""FitNet: a regressor turns a student's middle map into the teacher's (Romero et al. 2015), in RepDistiller's one-stage form."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, has_regressor, hint_regressor, pair_of, probes, shapes_of
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    hint_weight: float = Field(100.0, ge=0, description="weight of the hint loss (RepDistiller)")
    hint_stage: int = Field(2, ge=1, description="stage whose maps are compared, from 1 (RepDistiller's hint layer 2)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"hint_stage"}) if self.hint_weight == 0 else frozenset()


def faults(config: Config, case: Case) -> list[str]:
    """A stage that does not exist, or a size that no regressor reaches."""
    maps = [features.stages for features in shapes_of(case)]
    fewest = min(len(stages) for stages in maps)
    if config.hint_stage > fewest:
        return [
            f"pair {pair_of(case)}: hint_stage {config.hint_stage} is beyond the {fewest} stages that both networks have; "
            f"set it to 1..{fewest}"
        ]
    student, teacher = (stages[config.hint_stage - 1].shape for stages in maps)
    if has_regressor(student, teacher):
        return []
    return [
        f"pair {pair_of(case)}: no regressor from the student's {student[-1]}x{student[-1]} map of stage {config.hint_stage} "
        f"to the teacher's {teacher[-1]}x{teacher[-1]}, which may be smaller, equal or twice as large; choose another hint_stage"
    ]


def hint_loss(regressed: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of maps (Romero et al. 2015, Eq. 3).

        L = mean over B, C, H, W of (r(F_s) - F_t)^2

    Args:
        regressed: r(F_s), the student's map after the regressor, shape (B, C, H, W).
        teacher_map: F_t, shape (B, C, H, W); receives no gradient.

    Returns:
        Scalar, in squared units of the teacher's map.

    Departs from the paper: a mean instead of half the norm, as in RepDistiller.
    """
    return F.mse_loss(regressed.float(), teacher_map.detach().float())


class Method(DistillMethod):
    """L = ce_weight * CE + hint_weight * hint, student and regressor trained together.

    Departs from the paper, as RepDistiller: no first stage on hints alone, no KD term. The regressor ends in a ReLU also where the
    teacher's map has negative values (WRN).
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.stage = config.hint_stage - 1
        student, teacher = (features.stages[self.stage].shape for features in probes(context))
        self.modules["regressor"] = fresh(lambda: hint_regressor(student, teacher), context, "fitnet")

    def terms(self, batch: Batch) -> Terms:
        regressed = self.modules["regressor"](batch.student.maps.stages[self.stage].float())
        hint = hint_loss(regressed, batch.taught.maps.stages[self.stage])
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "hint": self.config.hint_weight * hint,
        }
