"""Augmentations: common properties, and the effect of each one on images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blendsearch.data.augment import AUGMENTATIONS, register_augmentation, resolve_augmentations
from blendsearch.errors import ConfigError

EVERY = pytest.mark.parametrize("name", sorted(AUGMENTATIONS))


def noise(count: int = 32, channels: int = 3, height: int = 16, width: int = 24) -> torch.Tensor:
    pixels = np.random.default_rng(7).integers(1, 256, size=(count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def places(padded: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Find all positions of `found` in `padded`."""
    height, width = found.shape[1:]
    return [
        (top, left)
        for top in range(padded.shape[1] - height + 1)
        for left in range(padded.shape[2] - width + 1)
        if np.array_equal(padded[:, top : top + height, left : left + width], found)
    ]


@EVERY
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 16, 24), (1, 3, 32, 32)])
def test_shape_and_type_are_kept(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    images = noise(*shape).to(dtype)
    changed = AUGMENTATIONS[name](images, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert changed.dtype == dtype


@EVERY
def test_bytes_and_floats_are_changed_alike(name: str) -> None:
    images = noise()
    as_bytes = AUGMENTATIONS[name](images, np.random.default_rng(3))
    as_floats = AUGMENTATIONS[name](images.float(), np.random.default_rng(3))
    assert torch.equal(as_bytes.float(), as_floats)


@EVERY
def test_augmentation_does_not_change_its_input(name: str) -> None:
    images = noise()
    before = images.clone()
    AUGMENTATIONS[name](images, np.random.default_rng(0)).zero_()
    assert torch.equal(images, before)


@EVERY
def test_the_same_generator_state_gives_the_same_images(name: str) -> None:
    first = AUGMENTATIONS[name](noise(), np.random.default_rng(5))
    assert torch.equal(first, AUGMENTATIONS[name](noise(), np.random.default_rng(5)))


@EVERY
def test_two_draws_from_one_generator_differ(name: str) -> None:
    rng = np.random.default_rng(5)
    first, second = (AUGMENTATIONS[name](noise(), rng) for _ in range(2))
    assert not torch.equal(first, second)


@EVERY
def test_images_of_one_batch_are_changed_differently(name: str) -> None:
    same = noise(count=1).expand(32, -1, -1, -1)
    changed = AUGMENTATIONS[name](same, np.random.default_rng(0))
    distinct = len({image.numpy().tobytes() for image in changed})
    assert distinct == 2 if name == "flip" else distinct >= 6


@EVERY
def test_torch_and_numpy_global_state_are_not_touched(name: str) -> None:
    torch_before, numpy_before = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    AUGMENTATIONS[name](noise(), np.random.default_rng(0))
    assert torch.equal(torch_before, torch.get_rng_state())
    assert numpy_before == repr(np.random.get_state(legacy=False))


def test_flip_mirrors_about_half_of_the_images_and_keeps_the_others() -> None:
    images = noise(count=400)
    changed = AUGMENTATIONS["flip"](images, np.random.default_rng(0))
    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(images, changed, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, changed, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    ("name", "mode", "margin"),
    [("crop", "constant", (2, 3)), ("crop-reflect", "reflect", (2, 3)), ("shift", "edge", (1, 1))],
)
def test_every_window_is_cut_from_the_padded_image_and_all_places_occur(
    name: str, mode: str, margin: tuple[int, int]
) -> None:
    top, left = margin
    images = noise(count=300)
    changed = AUGMENTATIONS[name](images, np.random.default_rng(1))
    found = set()
    for before, after in zip(images.numpy(), changed.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (top, top), (left, left)), mode=mode)  # type: ignore[call-overload]
        (place,) = places(padded, after)
        found.add(place)
    assert found == {(row, column) for row in range(2 * top + 1) for column in range(2 * left + 1)}


def test_crop_pads_four_pixels_at_32_by_32() -> None:
    images = noise(count=500, height=32, width=32)
    changed = AUGMENTATIONS["crop"](images, np.random.default_rng(1)).numpy()
    black_rows = (changed == 0).all(axis=(1, 3)).sum(axis=1)
    black_columns = (changed == 0).all(axis=(1, 2)).sum(axis=1)
    assert black_rows.max() == 4
    assert black_columns.max() == 4


def test_names_are_resolved_in_order() -> None:
    assert resolve_augmentations(("crop", "flip")) == (AUGMENTATIONS["crop"], AUGMENTATIONS["flip"])


def test_an_unknown_name_is_refused_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"'flp' is unknown.*crop, crop-reflect, flip, shift; did you mean 'flip'"):
        resolve_augmentations(("crop", "flp"))


def test_a_decorated_function_is_resolved_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blendsearch.data.augment.AUGMENTATIONS", {})

    @register_augmentation("invert")
    def invert(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return 255 - images

    assert resolve_augmentations(("invert",)) == (invert,)
