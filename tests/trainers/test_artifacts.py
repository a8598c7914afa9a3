"""Pictures and histograms."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainers import artifacts


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_samples_are_a_square_grid_of_enlarged_images(tmp_path: Path, channels: int, mode: str) -> None:
    images = torch.zeros(20, channels, 8, 8)
    images[0] = 1.0
    artifacts.write_samples(tmp_path / "new" / "samples.png", images)
    with Image.open(tmp_path / "new" / "samples.png") as picture:
        assert picture.mode == mode
        assert picture.size == (4 * 66, 4 * 66)  # 16 of 20 images, 8 px x 8, one white pixel around each
        white, black = (255, 0) if channels == 1 else ((255,) * 3, (0,) * 3)
        assert picture.getpixel((30, 30)) == white
        assert picture.getpixel((66 + 30, 30)) == black
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["samples.png"]


def test_histogram_counts_every_value(tmp_path: Path) -> None:
    artifacts.write_histogram(tmp_path / "h.json", torch.tensor([0.0, 0.1, 0.1, 1.0]), "loyalty", low=0.0, high=1.0)
    content = json.loads((tmp_path / "h.json").read_text())
    assert (content["quantity"], content["n"], content["mean"]) == ("loyalty", 4, pytest.approx(0.3))
    assert len(content["edges"]) == len(content["counts"]) + 1 == 51
    assert sum(content["counts"]) == 4
    assert (content["counts"][0], content["counts"][-1]) == (1, 1)


def test_histogram_of_one_value(tmp_path: Path) -> None:
    artifacts.write_histogram(tmp_path / "h.json", torch.full((7,), 2.5), "constant")
    assert sum(json.loads((tmp_path / "h.json").read_text())["counts"]) == 7
