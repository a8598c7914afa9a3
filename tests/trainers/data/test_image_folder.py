"""Folders of images: reading, caching, and every fault."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainers import _decode, data
from trainers.config import DataSpec
from trainers.data import image_folder
from trainers.errors import ConfigError, DataError

SPEC = DataSpec(name="image_folder", folder="pets")


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8), mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, 4 training and 2 test images each."""
    seed = 0
    for split, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / "pets" / split / label / f"{number}.png", seed)
                seed += 1
    return tmp_path


def faults(root: Path, spec: DataSpec = SPEC) -> str:
    with pytest.raises(DataError) as caught:
        data.info(spec, root)
    return str(caught.value)


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(paths: list[str]) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(_decode, "decode_all", fail)


def test_images_and_labels_are_those_of_the_files(root: Path) -> None:
    images = data.load(SPEC, root)
    assert images.train.labels.tolist() == [0] * 4 + [1] * 4 and images.test.labels.tolist() == [0, 0, 1, 1]
    for row, (label, number) in enumerate((label, number) for label in ("cat", "dog") for number in range(4)):
        expected = np.asarray(Image.open(root / "pets" / "train" / label / f"{number}.png"))
        assert np.array_equal(images.train.images[row].permute(1, 2, 0).numpy(), expected)
    assert images.val is None and not images.info.has_val


def test_constants_are_those_of_train(root: Path) -> None:
    images = data.load(SPEC, root)
    scaled = images.train.images.double() / 255
    assert images.info.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert images.info.std == pytest.approx(scaled.std((0, 2, 3), unbiased=False).tolist(), abs=1e-12)
    assert (images.info.classes, images.info.channels, images.info.size) == (2, 3, 8)


@pytest.mark.parametrize(("size", "padding"), [(31, 1), (32, 4)])
def test_padding_follows_the_size(tmp_path: Path, size: int, padding: int) -> None:
    for split in ("train", "test"):
        picture(tmp_path / "pets" / split / "cat" / "0.png", 0, (size, size))
    assert data.info(SPEC, tmp_path).crop_padding == padding


def test_second_reading_decodes_nothing_and_gives_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, content = data.load(SPEC, root), image_folder.content(SPEC, root)
    no_decoding(monkeypatch)
    second = data.load(SPEC, root)
    assert torch.equal(first.train.images, second.train.images) and torch.equal(first.test.labels, second.test.labels)
    assert data.info(SPEC, root) == first.info == second.info
    assert image_folder.content(SPEC, root) == content


def test_content_is_of_names_and_bytes_not_of_times_or_places(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = image_folder.content(SPEC, root)
    os.utime(root / "pets/train/cat/0.png", (1, 1))
    assert image_folder.content(SPEC, root) == content
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root / "pets", other / "pets")
    assert image_folder.content(SPEC, other) == content
    (root / "pets/train/cat/0.png").rename(root / "pets/train/cat/9.png")
    assert image_folder.content(SPEC, root) != content


def test_changed_image_is_noticed_and_the_old_cache_goes(root: Path) -> None:
    before = data.load(SPEC, root)
    picture(root / "pets/train/cat/0.png", 99)
    after = data.load(SPEC, root)
    assert not torch.equal(before.train.images[0], after.train.images[0])
    assert len(list((root / ".cache/image_folder/pets").glob("*.pt"))) == 1


def test_content_other_than_planned_is_an_error(root: Path) -> None:
    planned = SPEC.model_copy(update={"content": image_folder.content(SPEC, root)})
    assert len(data.load(planned, root).train) == 8
    picture(root / "pets/test/dog/0.png", 99)
    assert "changed since the trial was planned" in faults(root, planned)


def test_damaged_cache_is_made_again(root: Path) -> None:
    before = data.load(SPEC, root)
    next((root / ".cache/image_folder/pets").glob("*.pt")).write_bytes(b"torn")
    assert torch.equal(data.load(SPEC, root).train.images, before.train.images)


def test_root_without_room_for_a_cache_is_read_all_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / ".cache").write_text("in the way")
    assert len(data.load(SPEC, root).train) == 8
    assert "cache=off" in caplog.text


def test_disk_full_while_caching_is_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert len(data.load(SPEC, root).train) == 8
    assert "not written" in caplog.text


def test_grey_images_have_one_channel_and_join_coloured_ones_as_three(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / "pets" / split / "cat" / "0.png", 0, mode="L")
    grey = data.load(SPEC, tmp_path)
    assert grey.train.images.shape == (1, 1, 8, 8) and grey.info.channels == 1
    picture(tmp_path / "pets/train/cat/1.png", 1)
    mixed = data.load(SPEC, tmp_path)
    assert mixed.info.channels == 3
    assert torch.equal(mixed.train.images[0], grey.train.images[0].expand(3, 8, 8))


def test_val_folder_becomes_val(root: Path) -> None:
    shutil.copytree(root / "pets/test", root / "pets/val")
    images = data.load(SPEC, root)
    assert images.val is not None and images.info.has_val
    assert torch.equal(images.val.images, images.test.images)
    with pytest.raises(ConfigError, match=r"data\.holdout_images: 2, but .*val"):
        data.info(SPEC.model_copy(update={"holdout_images": 2}), root)


def test_holdout_and_limit_apply(root: Path) -> None:
    images = data.load(SPEC.model_copy(update={"holdout_images": 2, "train_per_class": 2}), root)
    assert images.val is not None and images.info.has_val
    assert images.val.labels.tolist() == [0, 1] and images.train.labels.tolist() == [0, 0, 1, 1]


def test_hidden_and_foreign_files_are_left_out(root: Path) -> None:
    content = image_folder.content(SPEC, root)
    (root / "pets/train/cat/.DS_Store").write_text("x")
    (root / "pets/train/cat/notes.txt").write_text("x")
    (root / "pets/train/.ipynb_checkpoints").mkdir()
    assert image_folder.content(SPEC, root) == content


@pytest.mark.parametrize("folder", ["../pets", "/pets", "."])
def test_folder_outside_the_root_is_refused(root: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.folder"):
        data.info(SPEC.model_copy(update={"folder": folder}), root)


def test_missing_folder_name_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.folder: missing"):
        data.info(DataSpec(name="image_folder"), root)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert faults(tmp_path) == f"{tmp_path / 'pets'}: no such folder"


def test_missing_splits_are_named(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    message = faults(tmp_path)
    assert "no `train/`" in message and "no `test/`" in message


def test_split_without_class_folders_is_named(root: Path) -> None:
    shutil.rmtree(root / "pets/test")
    picture(root / "pets/test/0.png", 0)
    assert "pets/test: no class folders" in faults(root)


def test_different_classes_are_named(root: Path) -> None:
    (root / "pets/test/dog").rename(root / "pets/test/wolf")
    message = faults(root)
    assert "pets/test: 2 classes, train has 2; 1 missing: dog; 1 unknown to train: wolf" in message


def test_empty_class_is_named(root: Path) -> None:
    shutil.rmtree(root / "pets/train/dog")
    (root / "pets/train/dog").mkdir()
    assert "pets/train/dog: no images" in faults(root)


@pytest.mark.parametrize("damage", [b"no image", b""])
def test_corrupt_image_is_named(root: Path, damage: bytes) -> None:
    (root / "pets/train/dog/2.png").write_bytes(damage)
    assert "train/dog/2.png: not a readable image" in faults(root)


def test_torn_image_is_named(root: Path) -> None:
    path = root / "pets/test/cat/1.png"
    path.write_bytes(path.read_bytes()[:-60])
    assert "test/cat/1.png: not a readable image" in faults(root)


def test_image_that_eight_bits_cannot_hold_is_named(root: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "pets/train/cat/2.png")
    assert "train/cat/2.png: not a readable image: mode I;16" in faults(root)


def test_different_sizes_name_two_images(root: Path) -> None:
    picture(root / "pets/train/cat/0.png", 0, (16, 16))
    message = faults(root)
    assert "train/cat/1.png is 8x8, train/cat/0.png is 16x16" in message and "1 of 12" in message


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / "pets" / split / "cat" / "0.png", 0, (8, 6))
    assert "not square: train/cat/0.png is 8x6" in faults(tmp_path)


def test_images_of_one_colour_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "pets" / split / "cat").mkdir(parents=True)
        Image.new("L", (8, 8), 7).save(tmp_path / "pets" / split / "cat" / "0.png")
    assert "cannot be standardised" in faults(tmp_path)


def test_all_faults_come_at_once(root: Path) -> None:
    (root / "pets/test/dog").rename(root / "pets/test/wolf")
    shutil.rmtree(root / "pets/train/dog")
    (root / "pets/train/dog").mkdir()
    (root / "pets/train/cat/0.png").write_bytes(b"x")
    (root / "pets/train/cat/1.png").write_bytes(b"x")
    picture(root / "pets/train/cat/2.png", 0, (16, 16))
    assert len(faults(root).splitlines()) == 5


def test_many_corrupt_images_give_a_short_message(root: Path) -> None:
    for number in range(50):
        (root / f"pets/train/cat/x{number:02}.png").write_bytes(b"x")
    lines = faults(root).splitlines()
    assert len(lines) == image_folder.NAMED_FILES + 1 and lines[-1] == "and 30 more unreadable images"


def test_helper_processes_give_what_one_process_gives(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "pets/test/dog/broken.png").write_bytes(b"x")
    paths = [str(path) for path in sorted((root / "pets").rglob("*.png"))]
    expected = [_decode.decode(path) for path in paths]
    monkeypatch.setattr(_decode, "ALONE", 0)
    monkeypatch.setattr(_decode, "CHUNK", 4)
    monkeypatch.setattr(_decode, "_cores", lambda: 2)
    found = dict(pair for chunk in _decode.decode_all(paths) for pair in chunk)
    assert sorted(found) == list(range(13))
    for position, wanted in enumerate(expected):
        assert found[position].sha256 == wanted.sha256 and bool(found[position].fault) == bool(wanted.fault)
        assert np.array_equal(found[position].pixels, wanted.pixels) or wanted.pixels is None
    (root / "pets/test/dog/broken.png").unlink()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(image_folder, "PROGRESS_S", 0.0)
    assert len(data.load(SPEC, root).train) == 8
    assert "decoded=12 of=12" in caplog.text


def test_helper_that_dies_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(_decode, "__file__", str(tmp_path / "dies.py"))
    monkeypatch.setattr(_decode, "ALONE", 0)
    monkeypatch.setattr(_decode, "CHUNK", 4)
    monkeypatch.setattr(_decode, "_cores", lambda: 2)
    with pytest.raises(RuntimeError, match="decodes images died"):
        data.load(SPEC, root)
