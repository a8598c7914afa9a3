"""ImageNet (ILSVRC2012): 1,281,167 train and 50,000 validation images of all sizes, 1000 classes, read while training.

    <data root>/imagenet/train/<wnid>/*.JPEG                  a folder a class
    <data root>/imagenet/val/<wnid>/*.JPEG                    likewise; or, as the archive has it,
    <data root>/imagenet/val/ILSVRC2012_val_<n>.JPEG          with the classes in
    <data root>/imagenet/ILSVRC2012_devkit_t12/data/          {meta.mat, ILSVRC2012_validation_ground_truth.txt}
    <data root>/.cache/imagenet/{index.json, lock}            names of all files

The validation images are the `test` split, as in the papers; the competition's own test images have no labels. A class's
number is its id's position in sorted order, which is torchvision's. The data need a registration, so nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _files, _images, _split
from trainers.data._stream import Files
from trainers.errors import DataError

log = logging.getLogger(__name__)

NAME = "imagenet"
DEVKIT = Path("ILSVRC2012_devkit_t12") / "data"
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
ENDING = ".JPEG"
SITE = "https://image-net.org"
SHOWN = 10  # items of one kind of fault, at most
FORMAT = 1  # of the cache

INFO = Info(
    classes=1000,
    channels=3,
    size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_padding=0,  # the random resized crop takes the place of a crop with padding
    flip=True,
)


@dataclass(frozen=True)
class Tree:
    """What a complete copy holds.

    Attributes:
        classes: how many.
        train, val: images of all classes together.
    """

    classes: int
    train: int
    val: int


ILSVRC2012 = Tree(classes=INFO.classes, train=1_281_167, val=50_000)

Names = dict[str, list[str]]
"""Paths of each class's images below the folder of their split, classes and paths sorted."""


@dataclass(frozen=True)
class _Index:
    """What the folders hold.

    Attributes:
        state: digest of what tells whether they have changed.
        train, val: the images.
    """

    state: str
    train: Names
    val: Names


def info(spec: DataSpec, root: Path) -> Info:
    """What is known without reading an image.

    Raises:
        ConfigError: a field that has no meaning here.
    """
    one_tree = "which is one fixed tree; `image_folder` reads folders"
    _split.reject(spec, {"folder": one_tree, "content": one_tree})
    return replace(INFO, has_val=spec.holdout_images > 0)


def content(spec: DataSpec, root: Path) -> None:
    """None: the published images are fixed, and another number of them is refused."""


def missing(spec: DataSpec, root: Path) -> list[str]:
    """The folders of both splits where they are not there; what they hold is looked at by `load`."""
    folder = root / NAME
    absent = [str(folder / split) for split in ("train", "val") if not (folder / split).is_dir()]
    return [f"{' and '.join(absent)}: no such folder; {_remedy(folder)}"] if absent else []


def load(spec: DataSpec, root: Path) -> DataSet:
    """Both splits; images stay in their files. Listed once, then read from a cache as long as no folder changes.

    Raises:
        ConfigError: a field that has no meaning here, or more images asked for than there are.
        DataError: not there, or every fault of the tree.
    """
    known = info(spec, root)
    train, test = read(root / NAME, root / ".cache" / NAME, ILSVRC2012, known.size)
    return _split.finish(spec, known, train, test, None)


def read(folder: Path, cache: Path, tree: Tree, size: int) -> tuple[Split, Split]:
    """Train and test images of `folder`.

    Args:
        folder: holds train/ and val/.
        cache: folder for the list of files.
        tree: what has to be there.
        size: height and width in pixels that images are brought to.

    Raises:
        DataError: every fault of layout and counts.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_remedy(folder)}")
    try:
        index = _known_or_listed(folder, cache, tree)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; remedy: give this user the right to read it") from error
    return _made(folder / "train", index.train, size), _made(folder / "val", index.val, size)


def _made(folder: Path, names: Names, size: int) -> Split:
    paths = np.array([os.fsencode(name) for each in names.values() for name in each], dtype=np.bytes_)
    counts = torch.tensor([len(each) for each in names.values()])
    return Split(Files(folder, paths, size), torch.arange(len(counts)).repeat_interleave(counts))


def _known_or_listed(folder: Path, cache: Path, tree: Tree) -> _Index:
    """The list of files from the cache if no folder has changed; else made, by one process while others wait.

    Raises:
        OSError: a folder cannot be read.
        DataError: every fault of the tree.
    """
    state = _state(folder, tree)
    known = _read_index(cache, state)
    if known is not None:
        return known
    with ExitStack() as held:
        try:
            held.enter_context(_files.one_at_a_time(cache / "lock"))
        except OSError as error:
            log.warning("folder=%s cache=off reason=%r", folder, str(error))
            return _list(folder, tree, state)
        known = _read_index(cache, state)  # another process may have made it while this one waited
        if known is not None:
            return known
        index = _list(folder, tree, state)
        encoded = json.dumps(asdict(index)).encode()
        try:
            _files.write_atomically(cache / "index.json", lambda file: file.write(encoded))
        except OSError as error:
            log.warning("folder=%s cache='not written' reason=%r", folder, str(error))
        return index


def _read_index(cache: Path, state: str) -> _Index | None:
    try:
        stored = json.loads((cache / "index.json").read_bytes())
    except (OSError, ValueError):
        return None
    return _Index(**stored) if isinstance(stored, dict) and stored.get("state") == state else None


def _state(folder: Path, tree: Tree) -> str:
    """SHA-256 of the tree wanted and the stamps of all folders, which change when a file comes, goes or gets another name."""
    lines = [f"{FORMAT} {tree}"]
    for split in ("train", "val"):
        lines.append(f"{split} {_stamp(folder / split)}")
        lines += sorted(f"{split}/{name} {stamp}" for name, stamp in _folders(folder / split).items())
    lines += [f"{name} {_stamp(folder / DEVKIT / name)}" for name in (META, TRUTH)]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _list(folder: Path, tree: Tree, state: str) -> _Index:
    """List the tree.

    Raises:
        OSError: a folder cannot be read.
        DataError: all that is wrong with it.
    """
    log.info("folder=%s listing=started images=%d", folder, tree.train + tree.val)
    faults: list[str] = []
    train = {wnid: _jpegs(folder / "train", wnid) for wnid in sorted(_folders(folder / "train"))}
    if not train:
        archives = [entry for entry in _entries(folder / "train") if entry.name.endswith(".tar")]
        packed = f"; unpack each of its {len(archives)} .tar files into a folder of its name" if archives else ""
        faults.append(
            f"{folder / 'train'}: no class folders, expected are {tree.classes}, train/<wnid>/*{ENDING}{packed}"
        )
    elif len(train) != tree.classes:
        faults.append(f"{folder / 'train'}: {len(train)} class folders, expected are {tree.classes}")
    val = {wnid: _jpegs(folder / "val", wnid) for wnid in sorted(_folders(folder / "val"))}
    if not val:
        val = _flat(folder, _jpegs(folder / "val"), faults.append)
    for split, names, expected in (("train", train, tree.train), ("val", val, tree.val)):
        images = sum(len(each) for each in names.values())
        if names and images != expected:
            faults.append(f"{folder / split}: {images} images, expected are {expected}")
        _tell(faults.append, f"{folder / split}: class folders without an image", [w for w in names if not names[w]])
    if train and val:
        _tell(faults.append, f"{folder / 'val'}: classes of train missing", sorted(train.keys() - val.keys()))
        _tell(faults.append, f"{folder / 'val'}: classes unknown to train", sorted(val.keys() - train.keys()))
    if faults:
        raise DataError("\n".join([*faults, _remedy(folder)]))
    return _Index(state, train, val)


def _flat(folder: Path, images: Sequence[str], add: Callable[[str], None]) -> Names:
    """The classes of validation images that lie in one folder: line i of the devkit's list is image i's, by name."""
    if not images:
        add(f"{folder / 'val'}: no images; expected is val/<wnid>/*{ENDING}, or val/*{ENDING} beside {DEVKIT}")
        return {}
    absent = [name for name in (META, TRUTH) if not (folder / DEVKIT / name).is_file()]
    if absent:
        add(
            f"{folder / 'val'}: {len(images)} images without class folders need {' and '.join(absent)} in "
            f"{folder / DEVKIT}; unpack {DEVKIT.parent}.tar.gz into {folder}"
        )
        return {}
    classes = _classes(folder / DEVKIT / META, add)
    lines = (folder / DEVKIT / TRUTH).read_text(encoding="utf-8", errors="replace").split()
    if len(lines) != len(images):
        add(f"{folder / DEVKIT / TRUTH}: {len(lines)} lines for {len(images)} images in {folder / 'val'}")
    strange = [f"{line[:40]!r} in line {number}" for number, line in enumerate(lines, 1) if line not in classes]
    _tell(add, f"{folder / DEVKIT / TRUTH}: class numbers that {META} does not name", strange if classes else [])
    found: Names = {wnid: [] for wnid in sorted(classes.values())}
    for line, image in zip(lines, images, strict=False):  # another number of lines is a fault already
        if line in classes:
            found[classes[line]].append(image)
    return found


def _classes(path: Path, add: Callable[[str], None]) -> dict[str, str]:
    """Id of each class by the number, as text, that the competition gave it; inner nodes of WordNet's tree are left out."""
    from scipy.io import loadmat  # takes a moment to import, and most trees do without

    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        number, wnid, children = (synsets[field] for field in ("ILSVRC2012_ID", "WNID", "num_children"))
        return {str(int(n)): str(w) for n, w, c in zip(number, wnid, children, strict=True) if c == 0}
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        add(f"{path}: cannot be read: {str(error) or type(error).__name__}; expected is the devkit's table of classes")
        return {}


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """Visible entries; none where there is no such folder."""
    return _images.visible(folder) if folder.is_dir() else ()


def _folders(folder: Path) -> dict[str, str]:
    """Name and stamp of each folder in `folder`."""
    return {entry.name: _images.stamp(entry) for entry in _entries(folder) if entry.is_dir()}


def _jpegs(folder: Path, below: str = "") -> list[str]:
    """Sorted paths, from `folder` on, of the images in its subfolder `below`."""
    names = sorted(entry.name for entry in _entries(folder / below) if entry.name.endswith(ENDING))
    return [f"{below}/{name}" for name in names] if below else names


def _stamp(path: Path) -> str:
    """What tells a changed file or folder; "absent" where there is none."""
    return _images.stamp(path) if path.exists() else "absent"


def _tell(add: Callable[[str], None], what: str, items: Sequence[str]) -> None:
    """Add one fault that counts all items and names the first ones; none without items."""
    if items:
        more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        add(f"{what}: {len(items)}: {', '.join(items[:SHOWN])}{more}")


def _remedy(folder: Path) -> str:
    return (
        f"remedy: get ILSVRC2012 from {SITE}, which asks for a registration, and put it, or a link to a copy that is there "
        f"already, as {folder / 'train'}/<wnid>/*{ENDING} and {folder / 'val'}/<wnid>/*{ENDING}"
    )
