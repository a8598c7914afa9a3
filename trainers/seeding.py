"""Named random streams that derive from the trial's seed alone, so that any epoch can be entered without replaying earlier ones."""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """63-bit seed of the stream `names` of trial seed `seed`: SHA-256 of both, so streams are independent of each other."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for one named stream, for example `stream(seed, "order", epoch)`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, *names))
    return generator
