"""Measurements of finished weights: class centres, embeddings, accuracy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import data, models
from trainers.config import Trial
from trainers.methods import Subject, centres, embedding
from trainers.methods._measure import drawn_classes, pooled_features
from trainers.run import run_trial
from trainers.train import trial_folder


def subject(tiny: Any) -> Subject:
    network = models.build("resnet8", classes=10, channels=1, size=8, seed=0).eval()
    return Subject(network, data.load(tiny.data, Path()))


def measured(trial: Trial, root: Path) -> tuple[dict[str, float], Path]:
    (epoch,) = run_trial(trial, root, root)
    return epoch.row, trial_folder(root, trial.digest()) / "artifacts" / "epoch_0000"


def test_mean_cosine_of_different_centres() -> None:
    # cos(a, b) = 0, cos(a, c) = cos(b, c) = 1 / sqrt 2: mean sqrt(2) / 3
    found = centres.mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))
    assert found.item() == pytest.approx(math.sqrt(2) / 3)
    assert centres.mean_cosine(torch.eye(4)).item() == 0


def test_classes_are_drawn_without_repetition_and_sorted() -> None:
    one = drawn_classes(100, 10, 0)
    assert one == sorted(set(one))
    assert len(one) == 10
    assert drawn_classes(100, 10, 0) == one != drawn_classes(100, 10, 1)
    assert drawn_classes(4, 10, 0) == [0, 1, 2, 3]


def test_centres_are_the_rows_of_the_last_weight(tiny: Any, root: Path) -> None:
    row, folder = measured(tiny.evaluate(tiny.teacher(), "centres", {"classes": 3}), root)
    content = json.loads((folder / "centres.json").read_text())
    weight = torch.load(trial_folder(root, tiny.teacher().digest()) / "weights.pt", weights_only=True)["state"]
    wanted = weight["classifier.weight"][content["classes"]]
    torch.testing.assert_close(torch.tensor(content["values"]), wanted, atol=1e-6, rtol=0)
    assert content["mean_cosine"] == row["classifier/mean_cosine"]
    assert "test/agree1_pct" not in row


def test_pooled_features_are_what_the_classifier_sees(tiny: Any) -> None:
    found = subject(tiny)
    features = pooled_features(found.network, found.images.test, found.images.info)
    with torch.no_grad():
        images = (found.images.test.images.float() / 255 - found.images.info.mean[0]) / found.images.info.std[0]
        torch.testing.assert_close(found.network.classifier(features), found.network(images), atol=1e-4, rtol=1e-4)


def test_silhouette_of_two_pairs() -> None:
    # a = 1 within, b = 10 and 11 or 9 and 10 to the others: s = 1 - 1 / 10.5 for the outer points, 1 - 1 / 9.5 for the inner
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    wanted = (2 * (1 - 1 / 10.5) + 2 * (1 - 1 / 9.5)) / 4
    assert embedding.silhouette(points, torch.tensor([0, 0, 1, 1])) == pytest.approx(wanted)


def test_tsne_keeps_far_groups_apart_and_repeats_itself() -> None:
    noise = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    noise[20:] += 50
    points = embedding.tsne(noise, perplexity=30, iterations=250)
    assert points.shape == (40, 2)
    assert torch.equal(points, embedding.tsne(noise, perplexity=30, iterations=250))
    labels = torch.arange(40) // 20
    assert embedding.silhouette(points, labels) > 0.5


def test_embedding_has_a_point_for_each_test_image_of_the_drawn_classes(tiny: Any, root: Path) -> None:
    trial = tiny.evaluate(tiny.teacher(), "embedding", {"classes": 3, "iterations": 250})
    row, folder = measured(trial, root)
    content = json.loads((folder / "embedding.json").read_text())
    labels = data.load(tiny.data, root).test.labels
    drawn = drawn_classes(10, 3, 0)
    assert content["label"] == [label for label in labels.tolist() if label in drawn]
    assert len(content["x"]) == len(content["y"]) == len(content["label"])
    assert content["silhouette"] == row["test/silhouette"]
    assert -1 <= row["test/silhouette"] <= 1


def test_an_untrained_network_can_be_measured(tiny: Any, root: Path) -> None:
    fresh = tiny.ce(epochs=0)
    assert list(run_trial(fresh, root, root)) == []
    row, _ = measured(tiny.evaluate(fresh, "accuracy"), root)
    assert 0 <= row["test/acc1_pct"] <= 60
    assert "test/agree1_pct" not in row
