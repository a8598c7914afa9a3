"""The append-only image pool: what is drawn, what is on disk, how it ends up in a continued trial, and its bounds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from trainers import checkpoint
from trainers.data import Info
from trainers.data._augment import standardise
from trainers.errors import ConfigError, TrialError
from trainers.synthesis import pool as pools
from trainers.synthesis.pool import ImagePool

CPU = torch.device("cpu")
INFO = Info(classes=3, channels=1, size=2, mean=(0.5,), std=(0.25,), crop_padding=0, flip=False)


def grey(*levels: float) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def drawn(pool: ImagePool, size: int, batches: int) -> list[torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return list(itertools.islice(pool.batches(size, stream), batches))


def test_images_are_kept_as_eight_bits_and_standardised_when_drawn(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    pool.append(grey(0.0, 1.0, 1.7, -0.3))
    (batch,) = drawn(pool, 4, 1)
    assert sorted(batch[:, 0, 0, 0].tolist()) == [-2.0, -2.0, 2.0, 2.0]  # (0 - .5) / .25 and (1 - .5) / .25


def test_each_pass_shows_every_image_once_and_drops_what_is_left_over(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    pool.append(grey(*(level / 255 for level in range(5))))
    first = torch.cat(drawn(pool, 2, 2))
    assert len(set(first[:, 0, 0, 0].tolist())) == 4
    passes = [tuple(batch[:, 0, 0, 0].tolist()) for batch in drawn(pool, 2, 20)]
    assert len(set(passes)) > 5  # every pass has an order of its own
    assert [len(batch) for batch in drawn(pool, 9, 3)] == [5, 5, 5]  # a small pool gives all it has


def test_an_addition_writes_one_file_and_touches_no_other(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    pool.append(grey(0.1, 0.2))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    pool.append(grey(0.3, 0.4))
    assert len(list(tmp_path.iterdir())) == 2
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in before.items())


def test_a_continued_pool_has_what_the_checkpoint_refers_to_and_no_more(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    pool.append(grey(0.1, 0.2))
    state = pool.state_dict()
    pool.append(grey(0.9, 0.9))  # an epoch that is cut off before its checkpoint
    again = ImagePool(tmp_path, 8, INFO, CPU)
    again.load_state_dict(state)
    assert len(again) == 2
    again.append(grey(0.3, 0.4))
    expected = standardise((grey(0.1, 0.2, 0.3, 0.4) * 255).round().to(torch.uint8), INFO)
    (batch,) = drawn(again, 4, 1)
    assert sorted(batch[:, 0, 0, 0].tolist()) == sorted(expected[:, 0, 0, 0].tolist())
    third = ImagePool(tmp_path, 8, INFO, CPU)
    third.load_state_dict(again.state_dict())
    assert torch.equal(drawn(third, 4, 1)[0], drawn(again, 4, 1)[0])


def test_missing_and_damaged_files_are_faults_of_the_trial(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    pool.append(grey(0.1, 0.2))
    state = pool.state_dict()
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[content.find(bytes([51] * 4))] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TrialError, match="corrupt"):
        ImagePool(tmp_path, 8, INFO, CPU).load_state_dict(state)
    checkpoint.save(file, {"images": torch.zeros(1, 1, 2, 2, dtype=torch.uint8)})
    with pytest.raises(TrialError, match="holds 1 images, the checkpoint refers to 2"):
        ImagePool(tmp_path, 8, INFO, CPU).load_state_dict(state)
    file.unlink()
    with pytest.raises(TrialError, match="is missing"):
        ImagePool(tmp_path, 8, INFO, CPU).load_state_dict(state)


def test_a_pool_larger_than_its_bound_is_refused_with_its_size(tmp_path: Path) -> None:
    large = Info(classes=3, channels=3, size=64, mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=0, flip=False)
    assert pools.faults(400 * 1024, large) == []
    (fault,) = pools.faults(2_000_000, large)
    assert "2000000 images of 64x64 pixels = 22.9 GiB; at most 16 GiB" in fault
    with pytest.raises(ConfigError, match=r"22\.9 GiB"):
        ImagePool(tmp_path, 2_000_000, large, CPU)


def test_a_pool_larger_than_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "free_gib", lambda device: 1e-9)
    with pytest.raises(ConfigError, match=r"has 0\.0 GiB free"):
        ImagePool(tmp_path, 8, INFO, CPU)


def test_newest_images_come_in_order_as_they_are_kept(tmp_path: Path) -> None:
    pool = ImagePool(tmp_path, 8, INFO, CPU)
    for first in (0, 3):
        pool.append(grey(*(level / 255 for level in range(first, first + 3))))
    assert (pool.newest(4)[:, 0, 0, 0] * 255).round().tolist() == [2, 3, 4, 5]
    assert len(pool.newest(100)) == 6


def test_free_memory_is_positive_and_below_a_petabyte() -> None:
    assert 0 < pools.free_gib(CPU) < 1e6
