"""Estimates from operations: networks' own counts, one published log, and how methods differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sweeps import cost, resolve, spec
from trainers import data, methods, models, registry
from trainers.config import DataSpec, Trial

NOWHERE = Path("/nowhere")


def trial(experiment: str, **labels: str) -> Trial:
    profile = spec.load_profile("paper")
    loaded = spec.load(experiment, profile)
    cell = next(cell for cell in loaded.cells if all(cell.labels[axis] == label for axis, label in labels.items()))
    return resolve.resolve(loaded, profile, cell, 0, NOWHERE)[0]


def test_forward_operations_of_known_networks() -> None:
    # ResNet18 on 32x32: 0.5556 G multiplications and additions of convolutions and the classifier, each counted as two
    assert cost.forward_flops("resnet18", 100, 3, 32) == pytest.approx(2 * 0.5554e9, rel=1e-3)
    by_hand = 2 * (9 * 3 * 16 * 32**2)  # the stem of resnet8 alone
    assert cost.forward_flops("resnet8", 10, 3, 32) > by_hand
    assert cost.forward_flops("resnet8", 10, 3, 64) == pytest.approx(
        4 * cost.forward_flops("resnet8", 10, 3, 32), rel=0.01
    )


def test_an_epoch_of_the_published_log_takes_as_long_as_it_took() -> None:
    found = trial("cudfkd/fig10", alpha="0.2")
    seconds = cost.seconds(found, NOWHERE)
    assert seconds is not None
    assert seconds / 300 == pytest.approx(208, rel=0.02)


def test_more_epochs_cost_in_proportion_and_a_measurement_nothing() -> None:
    found = trial("cudfkd/fig10", alpha="0.2")
    longer = found.model_copy(update={"protocol": found.protocol.model_copy(update={"epochs": 600})})
    assert cost.seconds(longer, NOWHERE) == pytest.approx(2 * (cost.seconds(found, NOWHERE) or 0))
    measured = trial("cudfkd/fig8", **{"measured against": "clean teacher"})
    assert cost.seconds(measured, NOWHERE) == 0.0


def test_a_set_of_unknown_size_has_no_estimate(place: Any) -> None:
    plan = place.plan(place.write())
    teacher = next(iter(plan.trials.values()))
    assert cost.seconds(teacher, NOWHERE) is not None
    own = teacher.data.model_copy(update={"name": "image_folder", "folder": "pets"})
    assert cost.seconds(teacher.model_copy(update={"data": own}), NOWHERE) is None


def test_a_cpu_is_slower_and_its_threads_count() -> None:
    found = trial("cudfkd/fig10", alpha="0.2")
    one, two = (cost.seconds(found, NOWHERE, threads=threads) for threads in (1, 2))
    assert one is not None and two is not None
    assert one - two == pytest.approx(cost.flops(found, NOWHERE) / cost.CPU_FLOPS_PER_S / 2)


def test_on_a_cpu_every_layer_of_every_update_takes_time_of_its_own(place: Any) -> None:
    plan = place.plan(place.write(), pair="A")
    teacher, student, _ = plan.trials.values()
    counts = {}
    for name in ("resnet14", "resnet8"):
        network = models.build(name, classes=10, channels=1, size=8)
        counts[name] = len([module for module in network.modules() if not list(module.children())])
    # 1,078 images in batches of 64: 17 updates; forward and twice that backward through the student, forward alone through the teacher
    for found, layers in ((teacher, 3 * counts["resnet14"]), (student, 3 * counts["resnet8"] + counts["resnet14"])):
        assert found.protocol.batch_size == 64
        seconds = cost.seconds(found, NOWHERE, threads=1)
        operations = cost.flops(found, NOWHERE) / cost.CPU_FLOPS_PER_S
        assert seconds == pytest.approx(operations + found.protocol.epochs * 17 * layers * cost.CPU_LAYER_S)


def test_sizes_of_shipped_sets_are_those_of_their_images(place: Any) -> None:
    for name in ("digits", "digits_turned"):
        assert cost.TRAIN_IMAGES[name] == len(data.load(DataSpec(name=name), place.settings.data).train)


def test_generators_count_only_where_there_is_one() -> None:
    config = trial("cudfkd/fig10", alpha="0.2").hparams
    assert cost.generator_flops(object(), 3, 32) == 0.0
    assert config["generator_width"] == 64


SETTINGS = {
    "protocol.name": "gpu-scratch", "teacher_protocol.name": "gpu-scratch", "data.name": "cifar100",
    "teacher": "wrn_40_2", "student": "wrn_16_2",
}  # fmt: skip


def distilled(**settings: Any) -> Trial:
    """A trial of 30 epochs on CIFAR-100, WRN-40-2 to WRN-16-2."""
    loaded = spec.load("cudfkd/fig7")
    cell = spec.Cell({}, SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})
    return resolve.resolve(loaded, spec.load_profile("paper"), cell, 0, NOWHERE)[0]


def test_operations_of_a_distillation_by_hand() -> None:
    teacher, student = (cost.forward_flops(name, 100, 3, 32) for name in ("wrn_40_2", "wrn_16_2"))
    found = cost.flops(distilled(method="kd"), NOWHERE)
    assert found == 30 * 50_000 * (3 * student + teacher)  # forward, twice that backward; the teacher forward only
    assert cost.seconds(distilled(method="kd"), NOWHERE) == found / cost.FLOPS_PER_S
    assert cost.flops(distilled(method="ce"), NOWHERE) == 30 * 50_000 * 3 * student


@pytest.mark.parametrize(
    ("method", "hparams", "views"),
    [
        ("pckd", {}, 4),
        ("pckd", {"hparams__beta_fa": 0.0}, 4),
        ("pckd", {"hparams__beta_cc": 0.0}, 4),
        ("pckd", {"hparams__beta_fa": 0.0, "hparams__beta_cc": 0.0}, 1),
        ("sskd", {}, 4),
        ("sskd", {"hparams__tf_weight": 0.0}, 4),
        ("sskd", {"hparams__tf_weight": 0.0, "hparams__ss_weight": 0.0}, 1),
        ("mld", {}, 2),
        ("dkd", {}, 1),
    ],
)
def test_every_view_of_an_image_is_paid_for(method: str, hparams: dict[str, float], views: int) -> None:
    once = cost.flops(distilled(method="kd"), NOWHERE)
    assert cost.flops(distilled(method=method, **hparams), NOWHERE) == views * once


def test_methods_that_choose_their_views_say_which() -> None:
    """Else a trial of theirs would be priced as if it saw one view."""
    files = {name: methods.module(name) for name in registry.names("methods")}
    choosing = {name for name, file in files.items() if "self.views =" in Path(str(file.__file__)).read_text()}
    assert choosing == {"pckd", "sskd"}
    assert all(hasattr(files[name], "views") for name in choosing)


def test_images_that_are_held_out_or_left_out_cost_nothing() -> None:
    whole = cost.flops(distilled(method="kd"), NOWHERE)
    assert cost.flops(distilled(method="kd", data__holdout_images=5000), NOWHERE) == pytest.approx(whole * 45 / 50)
    assert cost.flops(distilled(method="kd", data__train_per_class=50), NOWHERE) == pytest.approx(whole / 10)


def test_operations_do_not_depend_on_the_seed_or_on_what_is_only_measured() -> None:
    found = distilled(method="kd")
    assert cost.flops(found.model_copy(update={"seed": 7}), NOWHERE) == cost.flops(found, NOWHERE)
    measured = trial("cudfkd/fig8", **{"measured against": "clean teacher"})
    assert cost.flops(measured, NOWHERE) == 0.0
    assert cost.flops(trial("cudfkd/fig10", alpha="0.2"), NOWHERE) == pytest.approx(300 * 208 * 10e12, rel=0.02)


def test_images_of_a_set_of_unknown_size_are_counted() -> None:
    digits = distilled(method="ce", data__name="digits", student="resnet8")
    student = cost.forward_flops("resnet8", 10, 1, 8)
    assert cost.flops(digits, NOWHERE) == 30 * (1797 - 449 - 270) * 3 * student  # all less test and val


def test_the_shipped_search_trades_accuracy_for_operations() -> None:
    """Without alignment and contrast of features nothing is turned, so a suggestion costs a quarter."""
    experiment, profile = spec.load("pckd/search"), spec.load_profile("paper")
    assert experiment.file.search is not None
    assert [goal.metric for goal in experiment.file.search.goals] == ["best/val/acc1_pct", "cost/flops"]
    found: dict[bool, set[float]] = {}
    for point in resolve.corners(experiment.file.search.space):
        trial = resolve.resolve(experiment, profile, experiment.cells[0], 0, NOWHERE, point)[0]
        assert trial.teacher is not None
        assert trial.teacher.trial is not None
        assert trial.teacher.trial.data == trial.data  # the teacher never sees what the search validates on
        turned = point["hparams.beta_fa"] > 0 or point["hparams.beta_cc"] > 0
        found.setdefault(turned, set()).add(cost.flops(trial, NOWHERE))
    (dear,), (cheap,) = found[True], found[False]
    assert dear == 4 * cheap


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenetv2", "shufflev1", "shufflev2"])
def test_operations_are_those_of_torchs_own_counter(name: str) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        models.build(name, classes=10, channels=3, size=32).eval()(torch.empty(1, 3, 32, 32))
    assert cost.forward_flops(name, 10, 3, 32) == counter.get_total_flops()


def test_operations_of_products_transposed_layers_and_attention() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.up(images).flatten(2).transpose(1, 2)
            answer: Tensor = F.scaled_dot_product_attention(tokens, tokens, tokens) @ tokens.mT
            return answer

    with torch.device("meta"), torch.no_grad():
        network, images = Mixed(), torch.empty(2, 4, 5, 5)
        with cost.Operations() as ours:
            network(images)
        with FlopCounterMode(display=False) as counter:
            network(images)
    assert ours.total == counter.get_total_flops() > 0


def test_a_plan_loads_none_of_torchs_compiler() -> None:
    """It takes half a second to import, and `sweep plan` has no use for it."""
    code = (
        "import sys; from sweeps import cost, preflight\n"
        "for name in ('resnet8', 'wrn_16_2', 'vgg8', 'mobilenetv2', 'shufflev1', 'shufflev2', 'resnet18_imagenet'):\n"
        "    cost.forward_flops(name, 10, 3, 32), preflight._output_bytes(name, 10, 3, 32)\n"
        "cost._generator_flops(100, 3, 32, 2, 64)\n"
        "sys.exit('torch._dynamo' in sys.modules or 'sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
