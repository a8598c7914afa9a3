"""Reads and decodes image files, in this process or in several. Imports no torch, so that a helper starts at once.

Threads do not help with small images: 20,000 JPEGs of 32x32 took 4.0 s in one thread, 6.4 s in two and 2.9 s in two
processes (two cores, Pillow 13.0, one run). The helpers are started as commands and not through `multiprocessing`,
which would run the caller's main script again in each of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from queue import Queue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

CHUNK = 512  # files a message between processes
ALONE = 2_000  # files that one process decodes in less time than helpers take to start

GREY_MODES = frozenset({"1", "L"})
COLOUR_MODES = frozenset({"RGB", "P"})


class Decoded(NamedTuple):
    """One file.

    Attributes:
        sha256: of its bytes, hex.
        pixels: uint8, (H, W) when grey and (H, W, 3) when coloured; None when it could not be read.
        fault: why not.
    """

    sha256: str
    pixels: NDArray[np.uint8] | None
    fault: str = ""


def decode(path: str) -> Decoded:
    """Read one image. Grey stays grey, palettes become RGB; other modes are faults: 8-bit RGB loses part of them."""
    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except OSError as error:
        return Decoded("", None, str(error))
    digest = hashlib.sha256(encoded).hexdigest()
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode in GREY_MODES:
                return Decoded(digest, np.asarray(image.convert("L")))
            if image.mode in COLOUR_MODES:
                return Decoded(digest, np.asarray(image.convert("RGB")))
            return Decoded(digest, None, f"mode {image.mode}; allowed are 8-bit RGB, grey and palette images")
    except UnidentifiedImageError:  # its own message holds the address of our buffer
        return Decoded(digest, None, "of no known image format")
    except Exception as error:  # whatever a decoder meets in a broken file; reported with the file's name
        return Decoded(digest, None, str(error) or type(error).__name__)


def decode_all(paths: Sequence[str]) -> Iterator[list[tuple[int, Decoded]]]:
    """Every file of `paths` with its position, a chunk at a time in no fixed order, from one process for each core.

    Raises:
        RuntimeError: a helper process died.
    """
    chunks = [range(start, min(start + CHUNK, len(paths))) for start in range(0, len(paths), CHUNK)]
    workers = min(_cores(), len(chunks))
    if len(paths) < ALONE or workers < 2:
        for chunk in chunks:
            yield [(position, decode(paths[position])) for position in chunk]
        return
    results: Queue[list[tuple[int, Decoded]] | RuntimeError] = Queue()
    helpers = [_Helper(paths, chunks[first::workers], results) for first in range(workers)]
    try:
        for _ in chunks:
            result = results.get()
            if isinstance(result, RuntimeError):
                raise result
            yield result
    finally:
        for helper in helpers:
            helper.stop()


class _Helper:
    """A helper process with its share of the chunks, and the thread that reads what it sends."""

    def __init__(
        self, paths: Sequence[str], chunks: Sequence[range], results: Queue[list[tuple[int, Decoded]] | RuntimeError]
    ) -> None:
        # The file itself and -P, so that a foreign `trainers/` in the current folder is never taken for ours.
        command = [sys.executable, "-P", os.path.abspath(__file__)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.request = json.dumps([[paths[position] for position in chunk] for chunk in chunks]).encode()
        self.chunks = chunks
        self.results = results
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            with self.process.stdin as stdin:
                stdin.write(self.request)
            for chunk in self.chunks:
                decoded = [Decoded(*fields) for fields in pickle.load(self.process.stdout)]
                self.results.put(list(zip(chunk, decoded, strict=True)))
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.results.put(RuntimeError(f"a process that decodes images died ({error!r}); is there enough memory?"))

    def stop(self) -> None:
        """End the process, finished or not."""
        self.process.kill()
        self.process.wait()
        self.thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """The helper: lists of paths as JSON from stdin, one pickled list of tuples for each to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent ends this one
    for names in json.load(sys.stdin):
        # Plain tuples, because the parent knows this module under another name than __main__.
        pickle.dump([tuple(decode(name)) for name in names], sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
