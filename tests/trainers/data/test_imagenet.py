"""ImageNet from small trees of both original layouts: listing, every fault, and training that reads files."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from trainers import _torchvision, attempts, checkpoint, data, metrics
from trainers.attempts import read_status
from trainers.config import DataSpec, Trial
from trainers.data import Split, _images, imagenet
from trainers.data._stream import Files
from trainers.data.imagenet import DEVKIT, META, TRUTH, Tree
from trainers.errors import ConfigError, DataError
from trainers.run import run_trial
from trainers.train import trial_folder

SPEC = DataSpec(name="imagenet")
WNIDS = ("n01440764", "n02099601", "n03888257")
NUMBERS = (2, 9, 5)  # the competition's, which rise otherwise than the ids
TRAIN, VAL = 5, 4  # a class
SMALL = Tree(classes=3, train=3 * TRAIN, val=3 * VAL)
SIZE = 32


def picture(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.RandomState(seed).randint(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG")


def make(folder: Path) -> Path:
    """A tree with class folders; validation image n (from 1) is of class (n - 1) mod 3."""
    for label, wnid in enumerate(WNIDS):
        for number in range(TRAIN):
            picture(folder / "train" / wnid / f"{wnid}_{number}.JPEG", 100 * label + number, (40 + number, 44 - number))
    for number in range(3 * VAL):
        picture(folder / "val" / WNIDS[number % 3] / f"ILSVRC2012_val_{number + 1:08}.JPEG", 1000 + number)
    return folder


def flatten(tree: Path) -> None:
    """Validation images as the archive has them, and the devkit beside them."""
    for image in sorted((tree / "val").rglob("*.JPEG")):
        image.rename(tree / "val" / image.name)
    for wnid in WNIDS:
        (tree / "val" / wnid).rmdir()
    (tree / DEVKIT).mkdir(parents=True)
    inner = (1001, "n00001740", 3)
    leaves = [(number, wnid, 0) for number, wnid in zip(NUMBERS, WNIDS, strict=True)]
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    rows = [(number, wnid, "word", "gloss", children) for number, wnid, children in (*leaves, inner)]
    savemat(tree / DEVKIT / META, {"synsets": np.array(rows, dtype=[*fields, ("num_children", object)])})
    (tree / DEVKIT / TRUTH).write_text("".join(f"{NUMBERS[number % 3]}\n" for number in range(3 * VAL)))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "imagenet")


@pytest.fixture
def tree(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "root" / "imagenet")
    return tmp_path / "root" / "imagenet"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` asks for the small numbers."""
    monkeypatch.setattr(imagenet, "ILSVRC2012", SMALL)
    monkeypatch.setattr(imagenet, "INFO", replace(imagenet.INFO, classes=3, size=16))


def read(tree: Path, size: int = SIZE) -> tuple[Split, Split]:
    return imagenet.read(tree, tree.parent / "cache", SMALL, size)


def whole(split: Split) -> Tensor:
    (batch,) = split.batches([torch.arange(len(split))])
    return batch


def faults(tree: Path) -> list[str]:
    """Lines of the error, without the last one, the remedy."""
    with pytest.raises(DataError) as caught:
        read(tree)
    *lines, remedy = str(caught.value).splitlines()
    for part in ("remedy: ", "https://image-net.org", "registration", f"{tree}/train/<wnid>/*.JPEG", f"{tree}/val/"):
        assert part in remedy
    return lines


# ---- what is known ----


def test_official_numbers_and_constants() -> None:
    known = data.info(SPEC, Path("/nonexistent"))
    official = imagenet.ILSVRC2012
    assert (official.classes, official.train, official.val) == (1000, 1_281_167, 50_000)
    assert (known.classes, known.channels, known.size) == (1000, 3, 224)
    assert (known.mean, known.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (known.crop_padding, known.flip, known.has_val) == (0, True, False)
    assert data.info(DataSpec(name="imagenet", holdout_images=10), Path("/nonexistent")).has_val
    assert imagenet.content(SPEC, Path("/nonexistent")) is None


def test_fields_of_image_folder_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        data.load(DataSpec(name="imagenet", folder="x", content="y"), Path("/nonexistent"))
    assert len(caught.value.faults) == 2


# ---- what is read ----


def test_images_and_labels_are_those_of_the_files(tree: Path) -> None:
    train, test = read(tree)
    assert train.labels.tolist() == [0] * TRAIN + [1] * TRAIN + [2] * TRAIN and train.labels.dtype == torch.int64
    assert test.labels.tolist() == [0] * VAL + [1] * VAL + [2] * VAL
    assert whole(train).shape == (3 * TRAIN, 3, SIZE, SIZE) and whole(train).dtype == torch.uint8
    image = Image.open(tree / "val" / WNIDS[1] / "ILSVRC2012_val_00000005.JPEG")  # 48 x 40, the second of class 1
    resized = image.resize((43, 36), Image.Resampling.BILINEAR)  # 36 = 32 * 8 / 7; 48 * 36 / 40 = 43.2
    expected = resized.crop((6, 2, 38, 34))  # (43 - 32) / 2 = 5.5, to the even 6
    assert np.array_equal(whole(test)[VAL + 1].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_both_layouts_of_the_validation_images_give_the_same(tree: Path) -> None:
    folders = read(tree)[1]
    expected = whole(folders)
    flatten(tree)
    flat = read(tree)[1]
    assert torch.equal(flat.labels, folders.labels) and torch.equal(whole(flat), expected)


def test_flat_layout_reads_the_devkit_as_torchvision_does(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = _torchvision.datasets.imagenet
    flatten(tree)
    packed = shutil.make_archive(str(tmp_path / DEVKIT.parent), "gztar", tree, str(DEVKIT.parent))
    monkeypatch.setattr(theirs, "ARCHIVE_META", {"devkit": (Path(packed).name, None)})
    theirs.parse_devkit_archive(tmp_path)
    _, wnids = theirs.load_meta_file(tmp_path)
    by_name = dict(zip(sorted(path.name for path in (tree / "val").glob("*.JPEG")), wnids, strict=True))
    test = read(tree)[1]
    assert isinstance(test.images, Files)
    names = [os.fsdecode(name) for name in test.images.names]
    assert [by_name[name] for name in names] == [WNIDS[label] for label in test.labels.tolist()]


@pytest.mark.usefixtures("small")
def test_load_applies_holdout_and_limit(tree: Path) -> None:
    images = data.load(SPEC, tree.parent)
    assert (len(images.train), len(images.test), images.val, images.info.has_val) == (3 * TRAIN, 12, None, False)
    everything = whole(images.train)
    part = data.load(DataSpec(name="imagenet", holdout_images=3, train_per_class=2), tree.parent)
    assert part.val is not None and part.info.has_val
    assert part.val.labels.tolist() == [0, 1, 2] and part.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    held = [int((everything == image).flatten(1).all(1).nonzero()) for image in whole(part.val)]
    kept = [int((everything == image).flatten(1).all(1).nonzero()) for image in whole(part.train)]
    assert images.train.labels[held].tolist() == [0, 1, 2] and not set(held) & set(kept)
    assert images.train.labels[kept].tolist() == part.train.labels.tolist()


# ---- the cached list ----


def not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("listed again")

    monkeypatch.setattr(imagenet, "_list", fail)


@pytest.mark.usefixtures("small")
def test_second_reading_lists_nothing_and_gives_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(SPEC, tree.parent)
    assert (tree.parent / ".cache" / "imagenet" / "index.json").is_file()
    not_listed(monkeypatch)
    second = data.load(SPEC, tree.parent)
    assert torch.equal(whole(first.test), whole(second.test)) and torch.equal(first.train.labels, second.train.labels)


def test_renamed_and_added_files_are_noticed(tree: Path) -> None:
    before = whole(read(tree)[0])
    file = tree / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    file.rename(file.with_name("z.JPEG"))  # now the last of its class
    assert torch.equal(whole(read(tree)[0])[TRAIN - 1], before[0])
    picture(file, 0)
    assert faults(tree) == [f"{tree / 'train'}: 16 images, expected are 15"]


def test_cache_of_another_tree_and_a_torn_one_are_not_read(tree: Path) -> None:
    read(tree)
    with pytest.raises(DataError, match="expected are 1000"):
        imagenet.read(tree, tree.parent / "cache", imagenet.ILSVRC2012, SIZE)
    for text in ("{", "[]", "{}"):
        (tree.parent / "cache" / "index.json").write_text(text)
        assert len(read(tree)[0]) == 3 * TRAIN


def test_cache_that_cannot_be_written_is_told_and_nothing_else(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree.parent / "cache").write_text("in the way")
    assert len(read(tree)[0]) == 3 * TRAIN
    assert "cache=off" in caplog.text


def test_hidden_and_foreign_files_do_no_harm(tree: Path) -> None:
    (tree / "train" / WNIDS[0] / "._x.JPEG").write_text("x")
    (tree / "train" / ".DS_Store").write_text("x")
    (tree / "val" / WNIDS[0] / "Thumbs.db").write_text("x")
    assert len(read(tree)[0]) == 3 * TRAIN


# ---- faults ----


@pytest.mark.usefixtures("small")
def test_missing_folder_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load(SPEC, tmp_path)
    for part in (
        f"{tmp_path / 'imagenet'}: no such folder",
        "remedy: ",
        "https://image-net.org",
        "registration",
        "/val/",
    ):
        assert part in str(caught.value)


def test_empty_folder_names_both_splits(tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    train, val = faults(tmp_path / "imagenet")
    assert train.endswith("train: no class folders, expected are 3, train/<wnid>/*.JPEG")
    assert val.startswith(f"{tmp_path / 'imagenet' / 'val'}: no images; expected is val/<wnid>/*.JPEG, or ")


def test_archives_of_classes_that_are_still_packed_are_told(tree: Path) -> None:
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()
    for wnid in WNIDS:
        (tree / "train" / f"{wnid}.tar").write_bytes(b"")
    (train,) = faults(tree)
    assert train.endswith("; unpack each of its 3 .tar files into a folder of its name")


def test_missing_and_unknown_classes_and_counts_are_named_all_at_once(tree: Path) -> None:
    shutil.rmtree(tree / "train" / WNIDS[1])
    (tree / "val" / WNIDS[2]).rename(tree / "val" / "n99999999")
    for image in (tree / "val" / WNIDS[0]).iterdir():
        image.unlink()
    assert faults(tree) == [
        f"{tree / 'train'}: 2 class folders, expected are 3",
        f"{tree / 'train'}: 10 images, expected are 15",
        f"{tree / 'val'}: 8 images, expected are 12",
        f"{tree / 'val'}: class folders without an image: 1: {WNIDS[0]}",
        f"{tree / 'val'}: classes of train missing: 1: {WNIDS[2]}",
        f"{tree / 'val'}: classes unknown to train: 2: {WNIDS[1]}, n99999999",
    ]


def test_smaller_tree_is_refused_by_the_official_numbers(tree: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load(SPEC, tree.parent)
    assert f"{tree / 'train'}: 3 class folders, expected are 1000" in str(caught.value)
    assert f"{tree / 'train'}: 15 images, expected are 1281167" in str(caught.value)
    assert f"{tree / 'val'}: 12 images, expected are 50000" in str(caught.value)


def test_flat_images_without_the_devkit_name_what_is_missing(tree: Path) -> None:
    flatten(tree)
    (tree / DEVKIT / TRUTH).unlink()
    (fault,) = faults(tree)
    assert fault == (
        f"{tree / 'val'}: 12 images without class folders need {TRUTH} in {tree / DEVKIT}; "
        f"unpack ILSVRC2012_devkit_t12.tar.gz into {tree}"
    )


def test_devkit_that_does_not_fit_is_told(tree: Path) -> None:
    flatten(tree)
    truth = tree / DEVKIT / TRUTH
    truth.write_text(truth.read_text() + "1001\nx\n")
    assert faults(tree) == [
        f"{truth}: 14 lines for 12 images in {tree / 'val'}",
        f"{truth}: class numbers that {META} does not name: 2: '1001' in line 13, 'x' in line 14",
    ]
    (tree / DEVKIT / META).write_bytes(b"torn")
    assert faults(tree)[0].startswith(f"{tree / DEVKIT / META}: cannot be read: ")


def test_folder_without_the_right_to_read_is_a_data_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_images, "stamp", fail)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied; remedy: "):
        read(tree)


# ---- training ----


MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")


def trial_on(tiny: Any, **recipe: Any) -> Trial:
    fields = {"epochs": 2, "batch_size": 4, "lr": 0.05, **recipe}  # 4 batches, the last of 3
    trial: Trial = tiny.ce(trial={"data": SPEC}, **fields)
    return trial


def outcome(trial: Trial, root: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Bytes of the finished weights, and the rows without measured times."""
    state = checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]
    rows = attempts.rows(read_status(root, trial.digest()))
    kept = [{name: value for name, value in row.items() if not name.startswith(MEASURED)} for row in rows]
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}, kept


@pytest.mark.usefixtures("small")
def test_interrupted_training_continues_to_the_bit(tiny: Any, tree: Path, tmp_path: Path) -> None:
    trial, whole_root, broken = trial_on(tiny), tmp_path / "whole", tmp_path / "broken"
    assert [epoch.number for epoch in run_trial(trial, whole_root, tree.parent)] == [0, 1]
    for number in range(2):
        epochs = run_trial(trial, broken, tree.parent)
        assert next(epochs).number == number
        epochs.close()
    assert list(run_trial(trial, broken, tree.parent)) == []
    assert outcome(trial, whole_root) == outcome(trial, broken)
    last = outcome(trial, whole_root)[1][-1]
    assert {"train/loss", "test/acc1_pct", "test/acc5_pct"} <= set(last)


@pytest.mark.usefixtures("small")
def test_crops_are_drawn_where_the_recipe_augments(
    tiny: Any, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Generator | None] = []
    batches = Files.batches

    def watched(self: Files, chunks: Any, generator: torch.Generator | None, device: torch.device) -> Any:
        seen.append(generator)
        return batches(self, chunks, generator, device)

    monkeypatch.setattr(Files, "batches", watched)
    list(run_trial(trial_on(tiny, epochs=2), tmp_path / "state", tree.parent))
    training, test, again, _ = seen
    assert training is not None and again is not None and test is None
    assert training.initial_seed() != again.initial_seed()  # every epoch has a stream of its own
    seen.clear()
    list(run_trial(trial_on(tiny, epochs=1, augment=False), tmp_path / "state", tree.parent))
    assert seen == [None, None]


@pytest.mark.usefixtures("small")
def test_file_that_breaks_while_training_is_named(tiny: Any, tree: Path, tmp_path: Path) -> None:
    epochs = run_trial(trial_on(tiny), tmp_path / "state", tree.parent)
    next(epochs)
    file = tree / "train" / WNIDS[1] / f"{WNIDS[1]}_3.JPEG"
    file.write_bytes(b"torn")
    with pytest.raises(DataError, match=f"{file.name}: of no known image format"):
        next(epochs)


@pytest.mark.usefixtures("small")
def test_evaluation_reads_the_whole_split_in_order(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = data.load(SPEC, tree.parent)
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 5)

    class Means(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    logits = metrics.predict(Means(), images.test, images.info)  # type: ignore[arg-type]
    unit = whole(images.test).double() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (images.info.mean, images.info.std))
    assert torch.allclose(logits.double(), ((unit - mean) / std).mean((2, 3)), atol=1e-5)
