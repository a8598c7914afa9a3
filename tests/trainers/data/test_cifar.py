"""CIFAR through torchvision, from small archives of the original layout that a server on this machine offers."""

import hashlib
import logging
import pickle
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers import _torchvision, data
from trainers.config import DataSpec
from trainers.data import _files
from trainers.errors import ConfigError, DataError

PER_BATCH = 20


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write(path: Path, value: object) -> str:
    path.write_bytes(pickle.dumps(value))
    return md5(path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Writes an archive of a few images for a class of torchvision, and tells that class its address and checksums."""

    def make(name: str) -> Path:
        source = getattr(_torchvision.datasets, name)
        folder = tmp_path / "made" / source.base_folder
        folder.mkdir(parents=True)
        key = "labels" if name == "CIFAR10" else "fine_labels"
        pixels = np.random.RandomState(0)
        lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
        for which, entries in lists.items():
            for file, _ in getattr(source, which):
                images = pixels.randint(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
                labels = [i % 10 for i in range(PER_BATCH)]
                entries.append([file, write(folder / file, {"data": images, key: labels})])
            monkeypatch.setattr(source, which, entries)
        meta = source.meta | {"md5": write(folder / source.meta["filename"], {source.meta["key"]: ["a"] * 10})}
        monkeypatch.setattr(source, "meta", meta)
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


@pytest.mark.parametrize(("name", "source", "train"), [("cifar10", "CIFAR10", 100), ("cifar100", "CIFAR100", 20)])
def test_archive_is_downloaded_once_and_read(
    archive: Callable[[str], Path], tmp_path: Path, name: str, source: str, train: int
) -> None:
    packed, root = archive(source), tmp_path / "root"
    images = data.load(DataSpec(name=name), root)
    assert images.train.images.shape == (train, 3, 32, 32) and images.train.images.dtype == torch.uint8
    assert images.train.labels.tolist() == [i % 10 for i in range(PER_BATCH)] * (train // PER_BATCH)
    assert len(images.test) == PER_BATCH and images.val is None
    first = np.random.RandomState(0).randint(0, 256, (PER_BATCH, 3072), dtype=np.uint8)[0]
    assert torch.equal(images.train.images[0], torch.from_numpy(first.reshape(3, 32, 32)))  # planes of R, G, B
    packed.unlink()
    again = data.load(DataSpec(name=name), root)
    assert torch.equal(again.train.images, images.train.images)


def test_holdout_becomes_val_and_leaves_train(archive: Callable[[str], Path], tmp_path: Path) -> None:
    archive("CIFAR10")
    spec = DataSpec(name="cifar10", holdout_images=30)
    images = data.load(spec, tmp_path / "root")
    assert images.val is not None and images.info.has_val and data.info(spec, tmp_path).has_val
    assert torch.bincount(images.val.labels).tolist() == [3] * 10
    assert torch.bincount(images.train.labels).tolist() == [7] * 10


def test_offline_error_names_address_folder_and_remedy(archive: Callable[[str], Path], tmp_path: Path) -> None:
    packed, root = archive("CIFAR10"), tmp_path / "root"
    address = _torchvision.datasets.CIFAR10.url
    moved = packed.rename(tmp_path / "elsewhere.tar.gz")
    with pytest.raises(DataError) as caught:
        data.load(DataSpec(name="cifar10"), root)
    for part in (address, str(root), "remedy: ", "cifar-10-python.tar.gz"):
        assert part in str(caught.value)
    moved.rename(root / "cifar-10-python.tar.gz")  # the remedy
    assert len(data.load(DataSpec(name="cifar10"), root).train) == 100


def test_damaged_file_is_restored_from_the_archive(archive: Callable[[str], Path], tmp_path: Path) -> None:
    archive("CIFAR10")
    before = data.load(DataSpec(name="cifar10"), tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"torn")
    assert torch.equal(data.load(DataSpec(name="cifar10"), tmp_path).train.images, before.train.images)


def test_data_that_are_there_need_no_right_to_write(
    archive: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive("CIFAR10")
    data.load(DataSpec(name="cifar10"), tmp_path)
    monkeypatch.setattr(_files, "one_at_a_time", None)  # calling it would fail
    data.load(DataSpec(name="cifar10"), tmp_path)


def test_root_that_cannot_be_written_is_a_data_error(archive: Callable[[str], Path], tmp_path: Path) -> None:
    archive("CIFAR10")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="remedy"):
        data.load(DataSpec(name="cifar10"), tmp_path / "file")


def test_constants_are_those_of_the_papers() -> None:
    ten, hundred = (data.info(DataSpec(name=name), Path("/nonexistent")) for name in ("cifar10", "cifar100"))
    assert (ten.mean, ten.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (hundred.mean, hundred.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (ten.classes, hundred.classes) == (10, 100)
    assert (hundred.crop_padding, hundred.flip, hundred.size, hundred.has_val) == (4, True, 32, False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.folder"):
        data.load(DataSpec(name=name, folder="x"), Path("/nonexistent"))
    assert data.module(name).content(DataSpec(name=name), Path("/nonexistent")) is None


def test_second_holder_of_a_lock_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events: list[str] = []

    def second() -> None:
        with _files.one_at_a_time(tmp_path / "lock"):
            events.append("second")

    with _files.one_at_a_time(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        while not caplog.records:  # the line that says it waits
            time.sleep(0.01)
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]
    assert "waiting=" in caplog.text


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail(_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _files.write_atomically(tmp_path / "file", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
