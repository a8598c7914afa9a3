"""The preview strategy: difficulty, threshold, weights, and what is written of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from trainers.data import Split
from trainers.methods import Batch, Output
from trainers.methods._preview import (
    Preview,
    Weighting,
    curriculum_weight,
    difficulty,
    focal_weight,
    preview_weight,
    threshold,
)


def sample(rows: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(rows, classes, generator=generator), torch.randint(0, classes, (rows,), generator=generator)


def test_difficulty_by_hand() -> None:
    # p_y = 1/2 and 1/8: CE = ln 2 and 3 ln 2, mean 2 ln 2
    logits = torch.tensor([[1.0, 1.0], [7.0, 1.0]]).log()
    assert difficulty(logits, torch.tensor([0, 1])).tolist() == pytest.approx([0.5, 1.5])


def test_difficulty_equals_a_naive_loop_and_averages_to_one() -> None:
    logits, labels = sample()
    losses = [-math.log(torch.softmax(row.double(), 0)[y]) for row, y in zip(logits, labels, strict=True)]
    found = difficulty(logits, labels)
    assert found.tolist() == pytest.approx([loss / (sum(losses) / 8) for loss in losses], rel=1e-4)
    assert float(found.mean()) == pytest.approx(1, rel=1e-5)


def test_batch_without_any_loss_is_easy() -> None:
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    assert difficulty(sure, torch.tensor([0, 1])).tolist() == [0, 0]


def test_weights_by_hand() -> None:
    g = torch.tensor([1.2, 1.2])
    assert preview_weight(g, 1.1).tolist() == pytest.approx([0.236928] * 2, abs=1e-6)  # exp(-1.44)
    assert preview_weight(g, 1.2).tolist() == [1, 1]  # the threshold itself is easy
    assert curriculum_weight(g, 1.1).tolist() == [0, 0]
    assert curriculum_weight(g, 1.2).tolist() == [1, 1]
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    assert focal_weight(logits, torch.tensor([0, 1]), 2.0).tolist() == pytest.approx([0.5625, 0.25])


def test_equal_losses_are_easy_from_the_first_epoch_on() -> None:
    g = difficulty(torch.zeros(6, 5), torch.arange(6) % 5)
    for epoch in (0, 5, 239):
        assert preview_weight(g, threshold(0.005, epoch)).tolist() == [1] * 6


def test_hard_samples_weigh_less_than_exp_minus_one() -> None:
    g = torch.linspace(0, 5, 101)
    weights = preview_weight(g, 1.3)
    assert (weights[g <= 1.3] == 1).all()
    assert (weights[g > 1.3] < math.exp(-1)).all()
    assert torch.equal(preview_weight(g, 6.0), torch.ones(101))


def test_focal_weight_of_a_sure_sample_keeps_its_digits() -> None:
    # p_y = 1 - e^-30 is 1 in float32
    weight = focal_weight(torch.tensor([[30.0, 0.0]]), torch.tensor([0]), 1.0)
    assert float(weight) == pytest.approx(math.exp(-30), rel=1e-4)


@pytest.mark.parametrize(("eps", "expected"), [(0.005, (1.35, 2.11, 3.31)), (0.01, (1.82, 4.45, 10.9))])
def test_threshold_is_the_reference_s(eps: float, expected: tuple[float, ...]) -> None:
    assert [threshold(eps, t - 1) for t in (60, 150, 240)] == pytest.approx(expected, rel=5e-3)
    assert threshold(eps, 0) == 1 + eps  # t counts from 1
    assert threshold(12 * eps, 19) == pytest.approx(threshold(eps, 239), rel=0.3)  # PerEpoch: 20 epochs for 240


def batch_of(logits: Tensor, labels: Tensor, rows: Tensor) -> Batch:
    return Batch(rows, labels, Output(logits), None)


@pytest.mark.parametrize("weighting", ["preview", "curriculum", "focal"])
def test_epoch_s_mean_weight_is_over_all_samples(weighting: Weighting) -> None:
    logits, labels = sample(10)
    preview = Preview(weighting, 0.05, 2.0, labels)
    preview.start_epoch(3)
    parts = [
        preview.weigh(batch_of(logits[rows], labels[rows], rows)) for rows in (torch.arange(8), torch.arange(8, 10))
    ]
    logged = preview.end_epoch()
    assert logged["mean_v"] == pytest.approx(float(torch.cat(parts).mean()))
    assert logged.get("lambda") == (None if weighting == "focal" else threshold(0.05, 3))
    preview.start_epoch(4)
    preview.weigh(batch_of(logits[:1], labels[:1], torch.arange(1)))
    assert preview.end_epoch()["mean_v"] != logged["mean_v"]


def test_no_weighting_weighs_all_alike_and_logs_nothing() -> None:
    logits, labels = sample()
    preview = Preview("none", 0.05, 2.0, labels)
    assert preview.weigh(batch_of(logits, labels, torch.arange(8))).tolist() == [1] * 8
    assert preview.end_epoch() == {}


def test_artifacts_rank_the_images_of_each_class(tmp_path: Path) -> None:
    logits, _ = sample(40, 3)
    labels = torch.arange(40) % 3
    preview = Preview("preview", 0.005, 2.0, labels)
    order = torch.randperm(39, generator=torch.Generator().manual_seed(1))  # row 39 is not seen
    preview.weigh(batch_of(logits[order], labels[order], order))
    images = (torch.arange(40) * 6).to(torch.uint8).view(40, 1, 1, 1).expand(40, 1, 8, 8)  # its row is an image's grey
    preview.write(tmp_path, Split(images, labels))
    scores = difficulty(logits[:39], labels[:39])
    histogram = json.loads((tmp_path / "difficulty.json").read_text())
    assert histogram["n"] == 39
    assert histogram["mean"] == pytest.approx(1, rel=1e-4)
    classes = json.loads((tmp_path / "extremes.json").read_text())["classes"]
    assert list(classes) == ["0", "1", "2"]
    for label, lists in classes.items():
        rows = sorted(range(int(label), 39, 3), key=lambda row: float(scores[row]))
        assert [row for row, _ in lists["easiest"]] == rows[:8]
        assert [row for row, _ in lists["hardest"]] == rows[::-1][:8]
        assert (lists["spread"][0], lists["spread"][-1]) == (lists["easiest"][0], lists["hardest"][0])
        assert [score for _, score in lists["spread"]] == sorted(score for _, score in lists["spread"])
        assert lists["easiest"][0][1] == pytest.approx(float(scores[rows[0]]), abs=1e-5)


@pytest.mark.parametrize("seen", [39, 14])
def test_pictures_are_the_ranked_images_a_row_for_each_class(tmp_path: Path, seen: int) -> None:
    logits, _ = sample(40, 3)
    labels = torch.arange(40) % 3
    preview = Preview("preview", 0.005, 2.0, labels)
    preview.weigh(batch_of(logits[:seen], labels[:seen], torch.arange(seen)))
    images = (torch.arange(40) * 6).to(torch.uint8).view(40, 1, 1, 1).expand(40, 1, 8, 8)
    preview.write(tmp_path, Split(images, labels))
    content = json.loads((tmp_path / "extremes.json").read_text())
    tile, columns = content["tile"], content["columns"]
    assert (tile, columns, content["border"]) == (66, 8, 1)  # 8 pixels enlarged 8 times
    for name in ("easiest", "hardest", "spread"):
        picture = Image.open(tmp_path / f"{name}.png")
        assert picture.size == (columns * tile, 3 * tile)
        for line, lists in enumerate(content["classes"].values()):
            greys = [picture.getpixel((column * tile + 33, line * tile + 33)) for column in range(columns)]
            rows = [row for row, _ in lists[name]]
            assert greys == [6 * row for row in rows] + [255] * (columns - len(rows))


def test_nothing_seen_writes_nothing(tmp_path: Path) -> None:
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    Preview("preview", 0.005, 2.0, torch.zeros(4, dtype=torch.long)).write(tmp_path, split)
    assert list(tmp_path.iterdir()) == []
