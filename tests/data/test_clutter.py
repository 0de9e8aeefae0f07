"""The images of the example `clutter`: the same in every run, no original digit in two splits, labels of the digit."""

import numpy as np

from blendsearch.data.clutter import DIGITS, IMAGES, draw_digits, make_images
from blendsearch.data.splits import DataSpec, load_splits


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_clutter_is_the_same_in_every_run() -> None:
    first, second = (load_splits(DataSpec("clutter"), 0) for _ in range(2))
    assert first.compute_digest() == second.compute_digest()
    assert [len(first.train), len(first.val), len(first.test)] == [IMAGES[name] for name in ("train", "val", "test")]
    assert first.train.shape == (16, 16, 3) and first.classes == 10
    for split in (first.train, first.test):
        images = split.load_images(np.arange(len(split)))
        assert len({image.tobytes() for image in images}) == len(images)
    assert all(np.bincount(split.labels).min() > len(split) / 15 for split in (first.train, first.val, first.test))


def test_no_digit_of_clutter_is_in_two_splits() -> None:
    parts = draw_digits(1797, generator())
    assert {name: len(numbers) for name, numbers in parts.items()} == DIGITS
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))


def test_every_image_has_its_digit_whole_and_on_top() -> None:
    digits = np.zeros((2, 8, 8))
    digits[1] = 1.0  # a full square of one colour; fragments of it are smaller
    images, labels = make_images(digits, np.arange(2), 200, generator())
    assert images.dtype == np.uint8 and np.bincount(labels).tolist() == [100, 100]
    bright = (images.astype(float).min(axis=3) > 0.4 * 255).sum(axis=(1, 2))
    assert (bright[labels == 1] >= 60).all()
