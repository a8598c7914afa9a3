"""What methods with a first stage share: the student's trunk, and parts that are trained in one stage only."""

from __future__ import annotations

from torch import nn

from trainers.models import Network


def trunk(student: Network) -> list[nn.Parameter]:
    """Every parameter but the classifier's. Those that no map of a first stage depends on have no gradient and stay."""
    head = {id(parameter) for parameter in student.classifier.parameters()}
    return [parameter for parameter in student.parameters() if id(parameter) not in head]


def thaw(part: nn.Module) -> None:
    """Makes a part of the first stage trainable for its epochs."""
    part.requires_grad_(True)


def freeze(part: nn.Module) -> None:
    """Keeps a part of the first stage out of the recipe's own: no gradient, and none left to count in a norm."""
    part.requires_grad_(False)
    part.zero_grad(set_to_none=True)
