"""STL-10 from small archives of the original layout that a server on this machine offers."""

import hashlib
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers import _torchvision, data
from trainers.config import DataSpec
from trainers.data import _files, stl10
from trainers.errors import ConfigError, DataError

SPEC = DataSpec(name="stl10")
TRAIN, TEST = 20, 30
BYTES = 3 * 96 * 96


class Quiet(SimpleHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """Writes an archive of a few images, and tells torchvision's class its address and checksums."""
    source = _torchvision.datasets.STL10
    Quiet.asked = 0

    def make() -> Path:
        folder = tmp_path / "made" / source.base_folder
        folder.mkdir(parents=True)
        for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
            pixels = np.random.RandomState(seed).randint(0, 256, count * BYTES, dtype=np.uint8)
            pixels.tofile(folder / f"{split}_X.bin")
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
        (folder / "unlabeled_X.bin").write_bytes(b"large")
        for which in ("train_list", "test_list"):
            sums = [[name, md5(folder / name)] for name, _ in getattr(source, which)]
            monkeypatch.setattr(source, which, sums)
        packed = tmp_path / "made" / source.filename
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(folder, source.base_folder)
        monkeypatch.setattr(source, "url", f"http://127.0.0.1:{server.server_port}/{source.filename}")
        monkeypatch.setattr(source, "tgz_md5", md5(packed))
        return packed

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "made")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield make
        server.shutdown()


def test_archive_is_downloaded_once_and_the_unlabelled_part_stays_packed(
    archive: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive()
    images = data.load(SPEC, tmp_path / "root")
    asked = Quiet.asked
    assert asked > 0
    assert images.train.images.shape == (TRAIN, 3, 96, 96) and images.test.images.shape == (TEST, 3, 96, 96)
    assert images.train.images.dtype == torch.uint8 and images.train.images.is_contiguous()
    assert images.train.labels.tolist() == [*range(10)] * 2 and images.test.labels.tolist() == [*range(10)] * 3
    assert images.val is None and images.info == data.info(SPEC, tmp_path)
    names = {path.name for path in (tmp_path / "root" / "stl10_binary").iterdir()}
    assert names == {"train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"}
    monkeypatch.setattr(_files, "one_at_a_time", None)  # calling it would fail: what is there needs no right to write
    assert torch.equal(data.load(SPEC, tmp_path / "root").test.images, images.test.images)
    assert Quiet.asked == asked


def test_columns_of_the_file_become_columns_of_the_image(archive: Callable[[], Path], tmp_path: Path) -> None:
    archive()
    images = data.load(SPEC, tmp_path / "root").test.images
    content = (tmp_path / "root" / "stl10_binary" / "test_X.bin").read_bytes()
    for image, channel, row, column in ((0, 0, 5, 7), (29, 2, 95, 0), (3, 1, 0, 95)):
        place = ((image * 3 + channel) * 96 + column) * 96 + row  # column after column
        assert images[image, channel, row, column] == content[place]


def test_pixels_and_labels_are_torchvisions(archive: Callable[[], Path], tmp_path: Path) -> None:
    archive()
    ours = data.load(SPEC, tmp_path / "root")
    (tmp_path / "root" / "stl10_binary" / "unlabeled_X.bin").write_bytes(b"large")
    for split, found in (("train", ours.train), ("test", ours.test)):
        theirs = _torchvision.datasets.STL10(str(tmp_path / "root"), split=split)
        assert np.array_equal(found.images.numpy(), theirs.data)
        assert found.labels.tolist() == theirs.labels.tolist()


def test_archive_put_beside_is_used_without_a_network(archive: Callable[[], Path], tmp_path: Path) -> None:
    packed, root = archive(), tmp_path / "root"
    address = _torchvision.datasets.STL10.url
    moved = packed.rename(tmp_path / "elsewhere.tar.gz")
    with pytest.raises(DataError) as caught:
        data.load(SPEC, root)
    for part in (address, str(root), "remedy: ", "stl10_binary.tar.gz", _torchvision.datasets.STL10.tgz_md5):
        assert part in str(caught.value)
    asked = Quiet.asked
    moved.rename(root / "stl10_binary.tar.gz")  # the remedy
    assert len(data.load(SPEC, root).train) == TRAIN and Quiet.asked == asked


@pytest.mark.parametrize("name", ["train_X.bin", "test_y.bin"])
def test_damaged_or_missing_file_is_restored_from_the_archive(
    archive: Callable[[], Path], tmp_path: Path, name: str
) -> None:
    archive()
    before = data.load(SPEC, tmp_path)
    asked = Quiet.asked
    file = tmp_path / "stl10_binary" / name
    for damage in (lambda: file.write_bytes(b"torn"), file.unlink):
        damage()
        again = data.load(SPEC, tmp_path)
        assert torch.equal(again.train.images, before.train.images)
        assert torch.equal(again.test.labels, before.test.labels)
    assert Quiet.asked == asked


def test_archive_that_does_not_hold_the_published_files_is_a_data_error(
    archive: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive()
    source = _torchvision.datasets.STL10
    monkeypatch.setattr(source, "test_list", [[name, "0" * 32] for name, _ in source.test_list])
    with pytest.raises(DataError, match=r"stl10_binary does not hold the published files.*remedy: delete both"):
        data.load(SPEC, tmp_path)


def test_root_that_cannot_be_written_is_a_data_error(archive: Callable[[], Path], tmp_path: Path) -> None:
    archive()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="remedy"):
        data.load(SPEC, tmp_path / "file")


def test_holdout_and_limit_are_stratified(archive: Callable[[], Path], tmp_path: Path) -> None:
    archive()
    spec = DataSpec(name="stl10", holdout_images=10, train_per_class=1)
    images = data.load(spec, tmp_path)
    assert images.val is not None and images.info.has_val
    assert images.val.labels.sort().values.tolist() == [*range(10)]
    assert images.train.labels.sort().values.tolist() == [*range(10)]


def test_official_numbers_and_fields_without_meaning() -> None:
    known = data.info(SPEC, Path("/nonexistent"))
    assert (known.classes, known.channels, known.size, known.has_val) == (10, 3, 96, False)
    assert (known.mean, known.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (known.crop_padding, known.flip) == (4, True)
    assert stl10.content(SPEC, Path("/nonexistent")) is None
    with pytest.raises(ConfigError) as caught:
        data.info(DataSpec(name="stl10", folder="x", content="y"), Path("/nonexistent"))
    assert len(caught.value.faults) == 2
