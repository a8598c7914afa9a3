"""Tiny-ImageNet, from small trees and archives of the original layout; a server on this machine offers the archive."""

import hashlib
import logging
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainers import _decode, data
from trainers.config import DataSpec
from trainers.data import _files, _images, tiny_imagenet
from trainers.data.tiny_imagenet import NAME, Archive
from trainers.errors import ConfigError, DataError

SPEC = DataSpec(name="tiny_imagenet")
WNIDS = ("n02124075", "n04067472", "n01443537")  # as in the archive, not sorted
SORTED = sorted(WNIDS)
TRAIN, VAL = 4, 2
SMALL = Archive(url="http://127.0.0.1:9", md5="", classes=3, train_per_class=TRAIN, val_per_class=VAL)


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8), mode).save(path, "JPEG")


def make(folder: Path) -> Path:
    """A tree of the archive's layout; the first training image of the last class is grey."""
    seed = 0
    for wnid in WNIDS:
        lines = []
        for number in range(TRAIN):
            grey = wnid == SORTED[-1] and number == 0
            name = f"{wnid}_{number}.JPEG"
            picture(folder / "train" / wnid / "images" / name, seed, mode="L" if grey else "RGB")
            lines.append(f"{name}\t0\t10\t63\t58\n")
            seed += 1
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))
    lines = []
    for number in range(VAL * len(WNIDS)):
        picture(folder / "val" / "images" / f"val_{number}.JPEG", seed)
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n")
        seed += 1
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    picture(folder / "test" / "images" / "test_0.JPEG", seed)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\tsomething, a thing\n" for wnid in WNIDS))
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made") / NAME)


@pytest.fixture
def tree(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "root" / NAME)
    return tmp_path / "root" / NAME


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` asks for the small numbers."""
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", SMALL)
    monkeypatch.setattr(tiny_imagenet, "INFO", replace(tiny_imagenet.INFO, classes=3))


def read(tree: Path) -> tuple[data.Split, data.Split]:
    return tiny_imagenet.read(tree, tree.parent / "cache", SMALL)


def faults(tree: Path) -> list[str]:
    """Lines of the error, without the last one, the remedy."""
    with pytest.raises(DataError) as caught:
        read(tree)
    *lines, remedy = str(caught.value).splitlines()
    assert remedy.startswith("remedy: ") and str(tree) in remedy and SMALL.url in remedy
    return lines


def images_of(tree: Path, *wnids: str) -> list[Path]:
    return [tree / "train" / wnid / "images" / f"{wnid}_0.JPEG" for wnid in wnids]


def test_official_numbers_and_constants() -> None:
    archive, known = tiny_imagenet.ARCHIVE, data.info(SPEC, Path("/nonexistent"))
    assert (archive.classes, archive.train_per_class, archive.val_per_class) == (200, 500, 50)
    assert (archive.url, archive.md5) == (
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
    )
    assert (known.classes, known.channels, known.size) == (200, 3, 64)
    assert (known.mean, known.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert (known.crop_padding, known.flip, known.has_val) == (4, True, False)
    assert data.info(DataSpec(name="tiny_imagenet", holdout_images=10), Path("/nonexistent")).has_val
    assert data.module("tiny_imagenet").content(SPEC, Path("/nonexistent")) is None


@pytest.mark.parametrize("field", ["folder", "content"])
def test_fields_of_image_folder_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field}"):
        data.info(DataSpec.model_validate({"name": "tiny_imagenet", field: "x"}), Path("/nonexistent"))


def test_images_and_labels_are_those_of_the_files(tree: Path) -> None:
    train, test = read(tree)
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.images.shape == (12, 3, 64, 64) and train.images.dtype == torch.uint8
    assert test.images.shape == (6, 3, 64, 64) and test.labels.dtype == torch.int64
    for row, (wnid, number) in enumerate((wnid, number) for wnid in SORTED for number in range(TRAIN)):
        expected = Image.open(tree / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").convert("RGB")
        assert np.array_equal(train.images[row].permute(1, 2, 0).numpy(), np.asarray(expected))
    for row, (wnid, turn) in enumerate((wnid, turn) for wnid in SORTED for turn in range(VAL)):
        expected = Image.open(tree / "val" / "images" / f"val_{WNIDS.index(wnid) + 3 * turn}.JPEG")
        assert np.array_equal(test.images[row].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_grey_image_becomes_three_equal_planes(tree: Path) -> None:
    grey = images_of(tree, SORTED[-1])[0]
    assert Image.open(grey).mode == "L"
    image = read(tree)[0].images[8]
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


@pytest.mark.usefixtures("small")
def test_load_reads_the_folder_with_holdout_and_limit(tree: Path) -> None:
    images = data.load(SPEC, tree.parent)
    assert (len(images.train), len(images.test), images.val, images.info.has_val) == (12, 6, None, False)
    spec = DataSpec(name="tiny_imagenet", holdout_images=3, train_per_class=2)
    part = data.load(spec, tree.parent)
    assert part.val is not None and part.info.has_val
    assert part.val.labels.tolist() == [0, 1, 2] and part.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(part.test) == 6


@pytest.mark.usefixtures("small")
def test_second_reading_decodes_nothing_and_gives_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(SPEC, tree.parent)

    def fail(_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(_decode, "decode_all", fail)
    second = data.load(SPEC, tree.parent)
    assert torch.equal(first.train.images, second.train.images) and torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.train.labels, second.train.labels) and torch.equal(first.test.labels, second.test.labels)
    assert (tree.parent / ".cache" / "tiny_imagenet" / "index.json").is_file()


def test_changed_image_and_changed_annotation_are_noticed(tree: Path) -> None:
    before = read(tree)
    picture(images_of(tree, SORTED[0])[0], 99)
    changed = read(tree)
    assert not torch.equal(before[0].images[0], changed[0].images[0])
    file = tree / "val" / "val_annotations.txt"
    swap = {SORTED[0]: SORTED[1], SORTED[1]: SORTED[0], SORTED[2]: SORTED[2]}
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    file.write_text("\n".join("\t".join([name, swap[wnid], *box]) for name, wnid, *box in lines))
    assert torch.equal(read(tree)[1].images[:2], before[1].images[2:4])


def test_lost_cache_is_made_again(tree: Path) -> None:
    before = read(tree)
    next((tree.parent / "cache").glob("*.pt")).write_bytes(b"torn")
    assert torch.equal(read(tree)[0].images, before[0].images)
    shutil.rmtree(tree.parent / "cache")
    (tree.parent / "cache").write_text("in the way")
    assert torch.equal(read(tree)[0].images, before[0].images)


def test_hidden_and_foreign_files_and_windows_line_ends_do_no_harm(tree: Path) -> None:
    images_of(tree, SORTED[0])[0].with_name("._x.JPEG").write_text("x")
    (tree / "train" / ".DS_Store").write_text("x")
    (tree / "val" / "images" / "Thumbs.db").write_text("x")
    shutil.rmtree(tree / "test")
    for file in (tree / "wnids.txt", tree / "val" / "val_annotations.txt"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(read(tree)[1]) == 6


def test_missing_class_folder_is_named(tree: Path) -> None:
    shutil.rmtree(tree / "train" / SORTED[1])
    assert faults(tree) == [f"{tree / 'train'}: class folders missing: 1 of 3: {SORTED[1]}"]


def test_class_folder_that_is_unknown_is_named(tree: Path) -> None:
    (tree / "train" / "n99999999").mkdir()
    assert faults(tree) == [f"{tree / 'train'}: folders that wnids.txt does not name: 1 of 4: n99999999"]


def test_missing_annotations_are_named(tree: Path) -> None:
    (tree / "val" / "val_annotations.txt").unlink()
    (tree / "train" / SORTED[0] / f"{SORTED[0]}_boxes.txt").unlink()
    (tree / "wnids.txt").unlink()
    assert faults(tree) == [
        f"{tree / 'wnids.txt'}: no such file; expected are 3 class ids, one a line",
        f"{tree / 'train'}: lists of images missing: 1 of 3: {SORTED[0]}/{SORTED[0]}_boxes.txt",
        f"{tree / 'val' / 'val_annotations.txt'}: no such file, so 6 images have no class; expected are 6 lines",
    ]


def test_too_few_and_repeated_class_ids_are_named(tree: Path) -> None:
    (tree / "wnids.txt").write_text(f"{WNIDS[0]}\n{WNIDS[1]}\n{WNIDS[1]}\n")
    first, *_ = faults(tree)
    assert first == f"{tree / 'wnids.txt'}: 3 class ids, expected are 3 different ones, repeated are {WNIDS[1]}"
    (tree / "wnids.txt").write_text(f"{WNIDS[0]}\n{WNIDS[1]}\n")
    first, second, third = faults(tree)
    assert first == f"{tree / 'wnids.txt'}: 2 class ids, expected are 3 different ones"
    assert second.endswith(f"folders that wnids.txt does not name: 1 of 3: {WNIDS[2]}")
    assert third.endswith(
        f"class ids that wnids.txt does not name: 2 of 6: '{WNIDS[2]}' in line 3, '{WNIDS[2]}' in line 6"
    )


def test_listed_image_that_is_absent_is_named(tree: Path) -> None:
    images_of(tree, SORTED[0])[0].unlink()
    (tree / "val" / "images" / "val_4.JPEG").unlink()
    assert faults(tree) == [
        f"{tree / 'train'}: images listed in a <wnid>_boxes.txt but absent: 1 of 12: "
        f"{SORTED[0]}/images/{SORTED[0]}_0.JPEG",
        f"{tree / 'train'}: classes without 4 images: 1 of 3: {SORTED[0]} has 3",
        f"{tree / 'val' / 'images'}: images listed in val_annotations.txt but absent: 1 of 6: val_4.JPEG",
    ]


def test_unequal_counts_are_named(tree: Path) -> None:
    picture(images_of(tree, SORTED[2])[0].with_name("more.JPEG"), 5)
    file = tree / "val" / "val_annotations.txt"
    file.write_text(file.read_text().replace(f"val_0.JPEG\t{WNIDS[0]}", f"val_0.JPEG\t{WNIDS[1]}"))
    assert faults(tree) == [
        f"{tree / 'train'}: classes without 4 images: 1 of 3: {SORTED[2]} has 5",
        f"{file}: classes without 2 images: 2 of 3: {SORTED[1]} has 1, {SORTED[2]} has 3",
    ]


def test_equal_counts_other_than_the_official_are_refused(tree: Path) -> None:
    with pytest.raises(
        DataError, match=r"classes without 500 images: 3 of 3: n01443537 has 4, .*(?s:.*)without 50 images"
    ):
        tiny_imagenet.read(tree, tree.parent / "cache", tiny_imagenet.ARCHIVE)


def test_malformed_repeated_and_unknown_annotations_are_named(tree: Path) -> None:
    file = tree / "val" / "val_annotations.txt"
    with file.open("a") as more:
        more.write(f"val_0.JPEG\t{WNIDS[0]}\t0\t0\t9\t9\nval_5.JPEG {WNIDS[0]}\n../../x.JPEG\tn99999999\n")
    assert faults(tree) == [
        f"{file}: lines without a name, a tab and a class id: 1 of 9: line 8 'val_5.JPEG {WNIDS[0]}'",
        f"{file}: images named twice: 1 of 9: val_0.JPEG in line 7",
        f"{file}: class ids that wnids.txt does not name: 1 of 9: 'n99999999' in line 9",
        f"{tree / 'val' / 'images'}: images listed in val_annotations.txt but absent: 1 of 7: ../../x.JPEG",
    ]


def test_unreadable_and_strange_images_are_named(tree: Path) -> None:
    torn, small, text = images_of(tree, *SORTED)
    torn.write_bytes(torn.read_bytes()[:400])
    picture(small, 0, (32, 64))
    text.write_bytes(b"no image")
    Image.new("CMYK", (64, 64)).save(tree / "val" / "images" / "val_0.JPEG")
    unreadable, size = faults(tree)
    assert unreadable.startswith(f"{tree}: images not readable: 3 of 18: train/{SORTED[0]}/images/{SORTED[0]}_0.JPEG (")
    assert "val_0.JPEG (mode CMYK; allowed are" in unreadable and "_0.JPEG (of no known image format)" in unreadable
    assert size == f"{tree}: images not 64x64: 1 of 18: train/{SORTED[1]}/images/{SORTED[1]}_0.JPEG is 32x64"


def test_all_faults_come_at_once_and_each_kind_names_ten_at_most(tree: Path) -> None:
    shutil.rmtree(tree / "train" / SORTED[0])
    (tree / "val" / "val_annotations.txt").unlink()
    for number in range(13):
        (tree / "train" / SORTED[1] / "images" / f"x{number:02}.JPEG").write_bytes(b"x")
    missing, uneven, annotations, unreadable = faults(tree)
    assert SORTED[0] in missing and f"{SORTED[1]} has 17" in uneven and "no such file" in annotations
    assert unreadable.count("x0") == 10 and unreadable.endswith(", and 3 more") and "13 of 21" in unreadable


def test_empty_folder_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert len(faults(tmp_path / NAME)) == 2


def test_folder_without_the_right_to_read_is_a_data_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_images, "stamp", fail)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied; remedy: "):
        read(tree)


def test_progress_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    names = [str(path.relative_to(tree)) for path in sorted(tree.rglob("*.JPEG"))]
    _images.decode(tree, names, progress_s=0.0)
    assert "decoded=19 of=19" in caplog.text


class Quiet(SimpleHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def offered(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Packs the tree (and further members), offers it, and tells the data set its address and checksum."""
    (tmp_path / "offered").mkdir()
    Quiet.asked = 0

    def pack(**members: str) -> Path:
        packed = tmp_path / "offered" / f"{NAME}.zip"
        with zipfile.ZipFile(packed, "w") as file:
            for path in sorted(made.rglob("*")):
                file.write(path, f"{NAME}/{path.relative_to(made)}")
            for name, text in members.items():
                file.writestr(name, text)
        changes: dict[str, Any] = {
            "url": f"http://127.0.0.1:{server.server_port}/{packed.name}",
            "md5": hashlib.md5(packed.read_bytes()).hexdigest(),
        }
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", replace(SMALL, **changes))
        monkeypatch.setattr(tiny_imagenet, "INFO", replace(tiny_imagenet.INFO, classes=3))
        return packed

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "offered")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield pack
        server.shutdown()


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} if root.is_dir() else set()


def test_archive_is_downloaded_once_by_many_at_a_time(offered: Callable[..., Path], tmp_path: Path) -> None:
    offered()
    sizes: list[int] = []
    threads = [
        threading.Thread(target=lambda: sizes.append(len(data.load(SPEC, tmp_path / "root").train))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sizes == [12] * 4 and Quiet.asked == 1
    assert left(tmp_path / "root") == {NAME, f"{NAME}.zip", f".{NAME}.lock", ".cache"}


def test_zip_beside_is_unpacked_without_a_network(
    offered: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, root = offered(__MACOSX="x"), tmp_path / "root"
    root.mkdir()
    packed.rename(root / packed.name)
    (root / f".{NAME}.partial").mkdir()  # a process was killed here
    (root / f".{NAME}.partial" / "half").write_text("x")
    assert len(data.load(SPEC, root).test) == 6 and Quiet.asked == 0
    assert left(root) == {NAME, f"{NAME}.zip", f".{NAME}.lock", ".cache"}
    monkeypatch.setattr(_files, "one_at_a_time", None)  # calling it would fail: what is there needs no lock
    data.load(SPEC, root)


def test_download_that_is_not_the_archive_is_refused(
    offered: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered()
    wrong = replace(tiny_imagenet.ARCHIVE, md5="0" * 32)
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", wrong)
    with pytest.raises(
        DataError, match=rf"{wrong.url}: .* with MD5 [0-9a-f]{{32}} came, expected is 0{{32}}; .*remedy: "
    ):
        data.load(SPEC, tmp_path / "root")
    assert left(tmp_path / "root") == {f".{NAME}.lock"}


def test_zip_beside_that_is_not_the_archive_is_refused_and_stays(offered: Callable[..., Path], tmp_path: Path) -> None:
    offered()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / f"{NAME}.zip").write_bytes(b"half")
    with pytest.raises(DataError, match=r"root/tiny-imagenet-200\.zip: MD5 .*, expected is .*remedy: delete it"):
        data.load(SPEC, tmp_path / "root")
    assert (tmp_path / "root" / f"{NAME}.zip").read_bytes() == b"half" and Quiet.asked == 0


@pytest.mark.parametrize("member", ["../outside.txt", "/outside.txt", f"{NAME}/../../outside.txt"])
def test_archive_that_would_write_elsewhere_is_refused(
    offered: Callable[..., Path], tmp_path: Path, member: str
) -> None:
    offered(**{member: "x"})
    with pytest.raises(DataError, match=r"members outside the archive's folder: .*outside\.txt; nothing was unpacked"):
        data.load(SPEC, tmp_path / "root")
    assert not list(tmp_path.rglob("outside.txt")) and NAME not in left(tmp_path / "root")


def test_damaged_archive_is_a_data_error(
    offered: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = offered()
    packed.write_bytes(packed.read_bytes()[:1000])
    monkeypatch.setattr(
        tiny_imagenet,
        "ARCHIVE",
        replace(tiny_imagenet.ARCHIVE, md5=hashlib.md5(packed.read_bytes()).hexdigest()),
    )
    with pytest.raises(DataError, match=r"cannot be unpacked: .*remedy: "):
        data.load(SPEC, tmp_path / "root")
    assert left(tmp_path / "root") == {f".{NAME}.lock", f"{NAME}.zip"}


def test_offline_error_names_address_folder_and_remedy(offered: Callable[..., Path], tmp_path: Path) -> None:
    packed, root = offered(), tmp_path / "root"
    moved = packed.rename(tmp_path / "elsewhere.zip")
    with pytest.raises(DataError) as caught:
        data.load(SPEC, root)
    for part in (tiny_imagenet.ARCHIVE.url, tiny_imagenet.ARCHIVE.md5, str(root), "remedy: ", f"{NAME}.zip"):
        assert part in str(caught.value)
    moved.rename(root / f"{NAME}.zip")  # the remedy
    assert len(data.load(SPEC, root).train) == 12


def test_root_that_cannot_be_written_is_a_data_error(offered: Callable[..., Path], tmp_path: Path) -> None:
    offered()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="remedy"):
        data.load(SPEC, tmp_path / "file")
