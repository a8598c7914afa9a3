"""Images read from files while training: which pixels come, in which order, and how many are in memory."""

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainers import _torchvision
from trainers.data import Split, _stream
from trainers.data._stream import AHEAD, ATTEMPTS, DRAWS, Files, crop_box
from trainers.errors import DataError

COUNT, SIZE = 23, 28


def smooth(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    small = np.random.RandomState(seed).randint(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of many sizes."""
    made = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        smooth(number, 40 + 3 * number, 90 - 2 * number).save(made / f"{number}.JPEG", "JPEG")
    return made


def split_of(folder: Path, count: int = COUNT) -> Split:
    names = np.array([os.fsencode(f"{number}.JPEG") for number in range(count)])
    return Split(Files(folder, names, SIZE), torch.arange(count))


def chunks(*sizes: int) -> list[Tensor]:
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(1))
    return list(order.split(list(sizes)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(*numbers: float) -> NDArray[np.float64]:
    """The same numbers for every attempt."""
    return np.tile(np.array(numbers), (ATTEMPTS, 1))


# ---- splits in memory ----


def test_split_in_memory_gives_its_rows_and_draws_nothing() -> None:
    images = torch.arange(COUNT * 12, dtype=torch.int64).to(torch.uint8).view(COUNT, 3, 2, 2)
    generator = seeded()
    found = list(Split(images, torch.arange(COUNT)).batches(chunks(10, 10, 3), generator))
    assert all(torch.equal(batch, images[rows]) for batch, rows in zip(found, chunks(10, 10, 3), strict=True))
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=seeded()))


# ---- which pixels ----


def test_without_a_generator_pixels_are_those_of_torchvision(folder: Path) -> None:
    from torchvision import transforms  # after trainers._torchvision

    assert _torchvision.datasets
    reference = transforms.Compose([transforms.Resize(SIZE * 256 // 224), transforms.CenterCrop(SIZE)])
    (batch,) = split_of(folder).batches([torch.arange(COUNT)])
    assert batch.shape == (COUNT, 3, SIZE, SIZE) and batch.dtype == torch.uint8 and batch.is_contiguous()
    for number in range(COUNT):
        expected = np.asarray(reference(Image.open(folder / f"{number}.JPEG")))
        assert np.array_equal(batch[number].permute(1, 2, 0).numpy(), expected)


def test_random_crop_resizes_its_box_as_torchvision_does(folder: Path) -> None:
    from torchvision.transforms import functional

    split = split_of(folder)
    (batch,) = split.batches([torch.arange(COUNT)], seeded(3))
    numbers = torch.rand((COUNT, ATTEMPTS, DRAWS), generator=seeded(3), dtype=torch.float64).numpy()
    for number in range(COUNT):
        image = Image.open(folder / f"{number}.JPEG").convert("RGB")
        left, top, width, height = crop_box(*image.size, numbers[number])
        expected = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE])
        assert np.array_equal(batch[number].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_box_by_hand() -> None:
    # u0 = 0.5: 0.54 of 200 x 100 = 10800. u1 = 0.5: aspect 1. sqrt(10800) = 103.9: higher than the image, so attempt 2:
    # u0 = 0.3: 0.356 * 20000 = 7120, u1 = 1: aspect 4/3: w = sqrt(9493.3) = 97.4, h = sqrt(5340) = 73.1.
    # left = floor(0.5 (200 - 97 + 1)) = 52, top = floor(0.999 (100 - 73 + 1)) = 27
    numbers = np.array([[0.5, 0.5, 0.1, 0.1], [0.3, 1.0, 0.5, 0.999], *[[0.0] * 4] * 8])
    assert crop_box(200, 100, numbers) == (52, 27, 97, 73)


def test_box_that_never_fits_lies_in_the_middle() -> None:
    # 90 % of 1000 x 10 is 95 high at any aspect. The widest box allowed: 4/3 * 10 = 13.3; (1000 - 13) // 2 = 493.
    assert crop_box(1000, 10, draws(0.9, 0.5, 0.0, 0.0)) == (493, 0, 13, 10)
    assert crop_box(10, 1000, draws(0.9, 0.5, 0.0, 0.0)) == (0, 493, 10, 13)  # 10 / (3/4) = 13.3
    # 99 % of 110 x 100 at aspect 4/3 is 120 wide; 1.1 is a permitted aspect, so the whole image is taken.
    assert crop_box(110, 100, draws(0.99, 1.0, 0.0, 0.0)) == (0, 0, 110, 100)


def test_boxes_are_inside_with_area_and_aspect_in_their_ranges() -> None:
    numbers = torch.rand((1000, ATTEMPTS, DRAWS), generator=seeded(), dtype=torch.float64).numpy()
    boxes = [crop_box(400, 300, each) for each in numbers]
    areas = np.array([width * height / 120_000 for _, _, width, height in boxes])
    aspects = np.array([width / height for _, _, width, height in boxes])
    assert all(min(x, y) >= 0 and x + width <= 400 and y + height <= 300 for x, y, width, height in boxes)
    assert areas.min() > 0.078 and areas.max() < 1.0 and aspects.min() > 0.74 and aspects.max() < 1.35
    assert areas.min() < 0.09 and areas.max() > 0.9 and aspects.min() < 0.77 and aspects.max() > 1.3
    small = aspects[areas < 0.3]  # these always fit, so the logarithm of the aspect is uniform around 0
    assert abs(np.log(small).mean()) < 4 * math.log(4 / 3) / math.sqrt(3 * len(small))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_become_rgb(tmp_path: Path, mode: str) -> None:
    smooth(0, 60, 50, mode).save(tmp_path / "0.JPEG", "JPEG")
    (batch,) = split_of(tmp_path, 1).batches([torch.tensor([0])])
    expected = Image.open(tmp_path / "0.JPEG").convert("RGB")
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), np.asarray(_stream.centre(expected, SIZE)))


# ---- order and threads ----


@pytest.mark.parametrize("generator", [None, seeded])
def test_threads_and_their_timing_change_nothing(
    folder: Path, generator: Callable[[], torch.Generator] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = chunks(7, 7, 7, 2)
    fill, delay = _stream.fill, np.random.RandomState(0)

    def late(target: NDArray[np.uint8], path: Path, numbers: NDArray[np.float64] | None) -> str | None:
        time.sleep(delay.randint(8) / 1000)
        return fill(target, path, numbers)

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        return list(split_of(folder).batches(parts, generator() if generator else None))

    one = run(1)
    monkeypatch.setattr(_stream, "fill", late)
    for threads in (2, 5):
        assert all(torch.equal(*pair) for pair in zip(one, run(threads), strict=True))
    assert [len(batch) for batch in one] == [7, 7, 7, 2]


def test_rows_come_in_the_asked_order(folder: Path) -> None:
    (everything,) = split_of(folder).batches([torch.arange(COUNT)])
    parts = chunks(9, 9, 5)
    for rows, batch in zip(parts, split_of(folder).batches(parts), strict=True):
        assert torch.equal(batch, everything[rows])
    taken = split_of(folder).take(torch.tensor([5, 2, 2]))
    assert taken.labels.tolist() == [5, 2, 2]
    assert torch.equal(next(taken.batches([torch.tensor([2, 0])])), everything[[2, 5]])


def test_crops_depend_on_the_place_in_the_epoch_and_on_the_seed(folder: Path) -> None:
    split, twice = split_of(folder), [torch.tensor([4, 4])]
    (batch,) = split.batches(twice, seeded())
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(batch, next(split.batches(twice, seeded())))
    assert not torch.equal(batch, next(split.batches(twice, seeded(1))))


def test_nothing_asked_is_nothing_read(folder: Path) -> None:
    assert list(split_of(folder).batches([], seeded())) == []


def test_moved_split_keeps_its_files_and_moves_its_labels(folder: Path) -> None:
    moved = split_of(folder).to("meta")
    assert moved.labels.device.type == "meta" and isinstance(moved.images, Files)


# ---- how many at a time ----


class Counting:
    """In place of the decoder: counts images that are read or being read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = 0

    def __call__(self, target: NDArray[np.uint8], path: Path, numbers: NDArray[np.float64] | None) -> None:
        with self.lock:
            self.begun += 1
        target[:] = 0


def test_reading_runs_ahead_by_a_bounded_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    monkeypatch.setattr(_stream, "fill", counting)
    torch.set_num_threads(3)
    split = split_of(Path("/nonexistent"), 400)
    batches = split.batches([torch.arange(10)] * 40)
    assert counting.begun == 0  # nothing is read before the first batch is asked for
    for used in range(1, 41):
        next(batches)
        wanted = 10 * min(used + AHEAD, 40)
        deadline = time.monotonic() + 10
        while counting.begun < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002)
        assert counting.begun == wanted  # all that may be read ahead is, and no more


def test_buffers_do_not_grow_with_the_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, empty = 0, 0, torch.empty

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(*shape: object, **options: object) -> Tensor:
        nonlocal alive, most
        made: Tensor = empty(*shape, **options)
        weakref.finalize(made, gone)
        alive += 1
        most = max(most, alive)
        return made

    monkeypatch.setattr(torch, "empty", counted)
    for _ in split_of(folder).batches([torch.arange(4)] * 30):
        pass
    assert 0 < most <= AHEAD + 2


def test_abandoned_epoch_leaves_no_thread(folder: Path) -> None:
    before = threading.active_count()
    batches = split_of(folder).batches([torch.arange(4)] * 30)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


# ---- faults ----


def test_every_bad_file_of_a_batch_is_named(folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.JPEG").write_bytes((folder / f"{number}.JPEG").read_bytes())
    (tmp_path / "0.JPEG").write_bytes(b"no image")
    (tmp_path / "1.JPEG").unlink()
    (tmp_path / "2.JPEG").write_bytes((folder / "2.JPEG").read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        list(split_of(tmp_path, 4).batches([torch.arange(4)]))
    text, missing, torn, remedy = str(caught.value).splitlines()
    assert text == f"{tmp_path / '0.JPEG'}: of no known image format"
    assert missing == f"{tmp_path / '1.JPEG'}: cannot be read: No such file or directory"
    assert torn.startswith(f"{tmp_path / '2.JPEG'}: cannot be read: ") and "truncated" in torn
    assert remedy.startswith("remedy: ")


def test_many_bad_files_are_counted_and_good_batches_before_them_arrive(folder: Path) -> None:
    split = split_of(folder, 40)  # the last 17 do not exist
    batches = split.batches([torch.arange(20), torch.arange(20, 40)])
    assert len(next(batches)) == 20
    with pytest.raises(DataError, match=r"and 7 more unreadable images"):
        next(batches)
