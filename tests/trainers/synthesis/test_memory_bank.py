"""The bank of features: a ring that forgets the oldest, files that are written once, its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainers import checkpoint
from trainers.errors import ConfigError, TrialError
from trainers.synthesis import memory_bank
from trainers.synthesis.memory_bank import MemoryBank, faults

CPU = torch.device("cpu")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add(bank: MemoryBank, *numbers: float) -> None:
    """One entry for each number: locals n, globals -n."""
    local = torch.tensor(numbers)[:, None].expand(-1, 3)
    bank.append(local, -local)


def held(bank: MemoryBank) -> list[float]:
    local, whole = bank.sample(len(bank), stream(), CPU)
    assert torch.equal(local, -whole)
    return sorted(local[:, 0].tolist())


def test_a_full_ring_forgets_the_oldest_batch(tmp_path: Path) -> None:
    bank = MemoryBank(tmp_path, 6, 2, 3)
    lengths = []
    for first in (0, 2, 4, 6, 8):
        add(bank, first, first + 1)
        lengths.append(len(bank))
    assert lengths == [2, 4, 6, 6, 6]
    assert held(bank) == [4, 5, 6, 7, 8, 9]


def test_samples_are_different_entries_and_seeded(tmp_path: Path) -> None:
    bank = MemoryBank(tmp_path, 8, 4, 3)
    add(bank, 1, 2, 3, 4)
    assert held(bank) == [1, 2, 3, 4]  # the empty part is never drawn
    assert bank.sample(100, stream(), CPU)[0].shape == (4, 3)
    drawn = [tuple(bank.sample(2, stream(seed), CPU)[0][:, 0].tolist()) for seed in range(50)]
    assert all(len(set(each)) == 2 for each in drawn)
    assert len(set(drawn)) == 12  # every ordered pair
    assert drawn[7] == tuple(bank.sample(2, stream(7), CPU)[0][:, 0].tolist())


def test_a_continued_ring_has_what_the_checkpoint_refers_to(tmp_path: Path) -> None:
    bank = MemoryBank(tmp_path, 4, 2, 3)
    for first in (0, 2, 4):
        add(bank, first, first + 1)
    state = bank.state_dict()
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert sorted(before) == ["bank_00000.pt", "bank_00001.pt", "bank_00002.pt"]
    add(bank, 90, 91)  # an epoch that is cut off before its checkpoint
    (tmp_path / "bank_00000.pt").unlink()  # its entries have left the ring
    again = MemoryBank(tmp_path, 4, 2, 3)
    again.load_state_dict(state)
    assert held(again) == [2, 3, 4, 5]
    add(again, 6, 7)
    third = MemoryBank(tmp_path, 4, 2, 3)
    third.load_state_dict(again.state_dict())
    assert held(third) == [4, 5, 6, 7]
    assert torch.equal(third.sample(3, stream(), CPU)[0], again.sample(3, stream(), CPU)[0])
    assert all((tmp_path / name).stat().st_mtime_ns == before[name] for name in ("bank_00001.pt", "bank_00002.pt"))


def test_missing_and_foreign_files_are_faults_of_the_trial(tmp_path: Path) -> None:
    bank = MemoryBank(tmp_path, 4, 2, 3)
    add(bank, 0, 1)
    with pytest.raises(TrialError, match=r"features of shape \(2, 2, 3\), not of this trial's bank"):
        MemoryBank(tmp_path, 4, 2, 5).load_state_dict(bank.state_dict())
    (file,) = tmp_path.iterdir()
    checkpoint.save(file, {"entries": torch.zeros(1, 2, 3)})
    with pytest.raises(TrialError, match=r"features of shape \(1, 2, 3\)"):
        MemoryBank(tmp_path, 4, 2, 3).load_state_dict(bank.state_dict())
    file.unlink()
    with pytest.raises(TrialError, match="is missing: the checkpoint refers to 1 files of features"):
        MemoryBank(tmp_path, 4, 2, 3).load_state_dict(bank.state_dict())


def test_bounds_are_told_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(40_960, 256, 2704) == faults(40_960, 1024, 8512) == []
    (fault,) = faults(40_960, 768, 512)
    assert "40960 entries is no multiple of the synthesis batch 768; set bank_images to 40704 or 41472" in fault
    (fault,) = faults(256, 512, 512)
    assert "set bank_images to 512 or 1024" in fault
    (fault,) = faults(409_600, 256, 2704)
    assert "409600 entries of 2 x 2704 features = 8.3 GiB; at most 4 GiB" in fault
    with pytest.raises(ConfigError, match="no multiple"):
        MemoryBank(tmp_path, 5, 2, 3)
    monkeypatch.setattr(memory_bank, "free_gib", lambda device: 1e-9)
    with pytest.raises(ConfigError, match=r"this machine has 0\.0 GiB free"):
        MemoryBank(tmp_path, 4, 2, 3)
