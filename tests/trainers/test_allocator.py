"""Freed memory is used again without the system being asked."""

from __future__ import annotations

import platform
import subprocess
import sys

CODE = """
import resource, torch
from trainers._allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(8 * 2**20 // 4) + 1  # two tensors of 8 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

stock = faults()
told = keep_freed_memory()
faults()
print(stock, told, faults())
"""


def test_big_tensors_come_from_memory_that_was_freed_before() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    stock, told, kept = done.stdout.split()
    assert told == str(platform.libc_ver()[0] == "glibc")
    if told == "True":
        assert int(stock) > 1000  # of 4 KiB each; of 80 MiB that were written at the least
        assert int(kept) < 100
