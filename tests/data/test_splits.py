"""Splits are disjoint and stratified; batches and digests depend only on their inputs."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blendsearch.data import batches
from blendsearch.data.splits import (
    ArraySplit,
    DataSpec,
    Split,
    Splits,
    Subset,
    check_labels,
    load_splits,
)
from blendsearch.data.stratify import allocate_proportionally
from blendsearch.errors import ConfigError, DataError

CPU = torch.device("cpu")


def write_numbered(path: Path, class_sizes: list[int], source: int) -> None:
    """Write images of one RGB pixel that identifies them: (source, number // 256, number % 256); sorted by class."""
    number = np.arange(sum(class_sizes))
    pixels = np.stack([np.full_like(number, source), number // 256, number % 256], axis=1)
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    np.savez(path, x=pixels.astype(np.uint8)[:, None, None, :], y=labels)


def identities(split: Split) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in split.load_images(np.arange(len(split)))[:, 0, 0].tolist()]


def load_numbered(folder: Path, train: list[int], test: list[int], seed: int, **settings: object) -> Splits:
    write_numbered(folder / "train.npz", train, source=1)
    write_numbered(folder / "test.npz", test, source=2)
    spec = DataSpec("npz", root=str(folder), train="train.npz", test="test.npz")
    return load_splits(replace(spec, **settings), seed)  # type: ignore[arg-type]


def shares(labels: NDArray[np.int64], class_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    expected: NDArray[np.float64] = len(labels) * class_sizes / class_sizes.sum()
    return np.bincount(labels, minlength=len(class_sizes)) - expected


class_sizes = st.integers(1, 6).flatmap(
    lambda classes: st.tuples(*[st.lists(st.integers(2, 40), min_size=classes, max_size=classes)] * 2)
)


@settings(deadline=None, max_examples=150)
@given(
    sizes=class_sizes,
    val_from=st.sampled_from(["train", "test"]),
    val_size=st.floats(0.01, 1) | st.integers(2, 240),
    limits=st.tuples(*[st.none() | st.integers(1, 300)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_share_no_image_and_keep_sizes_and_shares(
    sizes: tuple[list[int], list[int]],
    val_from: str,
    val_size: float,
    limits: tuple[int | None, int | None, int | None],
    seed: int,
) -> None:
    sources = {"train": np.array(sizes[0]), "test": np.array(sizes[1])}
    source = sources[val_from]
    wanted = round(val_size * source.sum()) if val_size <= 1 else int(val_size)
    feasible = len(source) <= wanted <= source.sum() - len(source)
    asked: dict[str, Any] = dict(zip(("train_limit", "val_limit", "test_limit"), limits, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        if not feasible:
            with pytest.raises(DataError, match="val_size"):
                load_numbered(Path(folder), *sizes, seed, val_from=val_from, val_size=val_size, **asked)
            return
        whole = load_numbered(Path(folder), *sizes, seed, val_from=val_from, val_size=val_size)
        limited = load_numbered(Path(folder), *sizes, seed, val_from=val_from, val_size=val_size, **asked)

    found = [*identities(whole.train), *identities(whole.val), *identities(whole.test)]
    assert len(set(found)) == len(found) == sources["train"].sum() + sources["test"].sum()
    assert len(whole.val) == wanted
    assert {identity[0] for identity in identities(whole.val)} == {1 if val_from == "train" else 2}
    assert {identity[0] for identity in identities(whole.train)} == {1}
    assert {identity[0] for identity in identities(whole.test)} == {2}
    rest = whole.train if val_from == "train" else whole.test
    for split in (whole.val, rest):
        assert (np.bincount(split.labels, minlength=len(source)) >= 1).all()
        exact = len(split) * source / source.sum()
        if ((exact >= 1) & (exact <= source - 1)).all():
            assert np.abs(shares(split.labels, source)).max() < 1

    for name, limit in zip(("train", "val", "test"), limits, strict=True):
        full, part = getattr(whole, name), getattr(limited, name)
        assert len(part) == min(limit or len(full), len(full))
        assert set(identities(part)) <= set(identities(full))
        full_sizes = np.bincount(full.labels, minlength=len(source))
        if (len(part) * full_sizes / full_sizes.sum() >= 1).all():
            assert np.abs(shares(part.labels, full_sizes)).max() < 1
        elif len(part) >= len(source):
            assert (np.bincount(part.labels, minlength=len(source)) >= 1).all()
    left_out = set(identities(whole.val)) - set(identities(limited.val))
    assert left_out == (set() if limited.unused is None else set(identities(limited.unused)))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12), data=st.data())
def test_labels_stay_with_their_images(sizes: list[int], data: st.DataObject) -> None:
    sizes[0] += 2
    labels = np.repeat(np.arange(len(sizes)), sizes)
    split = ArraySplit(labels.astype(np.uint8)[:, None, None, None], labels)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    view = Subset(Subset(split, order), np.arange(0, len(labels), 2))
    assert view.load_images(np.arange(len(view)))[:, 0, 0, 0].tolist() == view.labels.tolist()
    assert view.labels.tolist() == labels[order][::2].tolist()


def test_the_same_seed_gives_the_same_order_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (load_numbered(tmp_path, [50] * 4, [30] * 4, seed, val_size=0.2) for seed in (1, 1, 2))
    for name in ("train", "val", "test"):
        assert identities(getattr(first, name)) == identities(getattr(again, name))
        assert identities(getattr(first, name)) != identities(getattr(other, name))
    assert set(identities(first.val)) != set(identities(other.val))


def test_any_prefix_of_data_sorted_by_class_is_mixed(tmp_path: Path) -> None:
    splits = load_numbered(tmp_path, [200] * 5, [200] * 5, 0, val_size=0.5)
    for split in (splits.train, splits.val, splits.test):
        assert (np.bincount(split.labels[:100], minlength=5) >= 8).all()


def test_a_limit_on_one_split_does_not_change_others(tmp_path: Path) -> None:
    whole = load_numbered(tmp_path, [50] * 4, [30] * 4, 3)
    limited = load_numbered(tmp_path, [50] * 4, [30] * 4, 3, val_limit=8)
    assert identities(limited.train) == identities(whole.train)
    assert identities(limited.test) == identities(whole.test)
    assert len(limited.val) == 8


def test_separate_validation_images_do_not_shrink_train_and_test(tmp_path: Path) -> None:
    write_numbered(tmp_path / "val.npz", [5, 5], source=3)
    splits = load_numbered(tmp_path, [10, 10], [8, 8], 0, val="val.npz", val_size=0.5)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (20, 10, 16)
    assert {identity[0] for identity in identities(splits.val)} == {3}
    assert splits.note == (
        "npz: validation is its own 10 images, test is all 16 test images, training is all 20 train images."
    )


def test_the_note_states_the_origin_of_the_splits(tmp_path: Path) -> None:
    splits = load_numbered(tmp_path, [10, 10], [8, 8], 0, val_from="test", val_size=0.5, test_limit=4)
    assert splits.note == (
        "npz: validation is 8 of the 16 test images, test is the other 8 (of which 4 are used), training is all 20"
        " train images."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_size": 0}, "val_size is 0; expected a fraction"),
        ({"val_size": float("nan")}, "val_size is nan"),
        ({"val_size": 2.5}, "val_size is 2.5; expected .* whole number"),
        ({"val_size": 1}, "takes 20 of the 20 train images and leaves train empty; choose 2 to 18 images"),
        ({"val_size": 99}, "takes 99 of the 20 train images"),
        ({"val_size": 0.01}, "takes 0 of the 20 train images and leaves val empty"),
        ({"val_size": 0.05}, "leaves val without some of the 2 classes; choose 2 to 18 images"),
        ({"val_size": 19}, "leaves train without some of the 2 classes"),
        ({"val_limit": 0}, "val_limit is 0; expected at least 1"),
        ({"train_limit": -1}, "train_limit is -1"),
        ({"test_limit": 0}, "test_limit is 0"),
        ({"mean": (0.5,)}, "mean has 1 values but images have 3 channels"),
        ({"std": (0.5, 0.0, 0.5)}, "std is .* expected values above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is .* expected values finite"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_numbered(tmp_path, [10, 10], [8, 8], 0, **settings)


def test_a_class_with_one_image_is_named_when_it_cannot_be_in_two_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 1 has a single train image"):
        load_numbered(tmp_path, [10, 1, 9], [8, 8, 8], 0, val_size=0.3)


def test_unknown_names_are_refused_before_any_data_is_read() -> None:
    with pytest.raises(ConfigError, match="val_from is 'validation'; expected 'train' or 'test'"):
        load_splits(DataSpec("npz", train="missing", test="missing", val_from="validation"), 0)
    with pytest.raises(ConfigError, match="augmentation 'flap' is unknown"):
        load_splits(DataSpec("npz", train="missing", test="missing", augment=("flap",)), 0)


def test_mean_and_std_are_measured_on_training_images_scaled_to_one(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, size=(60, 5, 4, 3), dtype=np.uint8)
    x[..., 2] = 51
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 2)
    np.savez(tmp_path / "b.npz", x=255 - x, y=np.arange(60) % 2)
    splits = load_splits(DataSpec("npz", str(tmp_path), "a.npz", "b.npz", val_from="test", val_size=0.5), 0)
    scaled = x.reshape(-1, 3) / 255
    np.testing.assert_allclose(splits.mean, scaled.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(splits.std[:2], scaled.std(axis=0)[:2], rtol=1e-6)
    assert splits.std[2] == np.float32(1 / 255)  # a constant channel, kept divisible
    given = load_splits(DataSpec("npz", str(tmp_path), "a.npz", "b.npz", mean=(0.1, 0.2, 0.3)), 0)
    assert given.mean.tolist() == np.array([0.1, 0.2, 0.3], dtype=np.float32).tolist()
    assert given.std.dtype == given.mean.dtype == np.float32


def test_a_split_larger_than_one_chunk_is_measured_on_all_its_pixels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, size=(1000, 2, 2, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(1000) % 2)
    np.savez(tmp_path / "b.npz", x=x[::-1], y=np.arange(1000) % 2)
    splits = load_splits(DataSpec("npz", str(tmp_path), "a.npz", "b.npz", val_from="test"), 0)
    np.testing.assert_allclose(splits.mean, [x.mean() / 255], rtol=1e-6)


@pytest.fixture
def noise() -> ArraySplit:
    rng = np.random.default_rng(0)
    return ArraySplit(rng.integers(0, 256, size=(50, 16, 12, 3), dtype=np.uint8), rng.integers(0, 5, size=50))


MEAN, STD = np.array([0.4, 0.5, 0.6], dtype=np.float32), np.array([0.2, 0.25, 0.3], dtype=np.float32)


def iter_batches(split: Split, **settings: object) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Iterate over batches of `split` in splits made of it alone."""
    settings = {"batch_size": 16, "device": CPU} | settings
    return Splits(split, split, split, 5, MEAN, STD, (), "").iter_batches(split, **settings)  # type: ignore[arg-type]


def collect(split: Split, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    found = list(iter_batches(split, **settings))
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def test_batches_in_order_are_the_normalised_images(noise: ArraySplit) -> None:
    x, y = collect(noise)
    expected = (noise.load_images(np.arange(50)) / 255 - MEAN) / STD
    assert x.dtype == torch.float32 and x.is_contiguous() and y.dtype == torch.int64
    np.testing.assert_allclose(x.numpy(), expected.transpose(0, 3, 1, 2), atol=2e-6)
    assert y.tolist() == noise.labels.tolist()


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, [16, 16, 16, 2]),
        ({"drop_last": True}, [16, 16, 16]),
        ({"limit": 20}, [16, 4]),
        ({"limit": 20, "drop_last": True}, [16]),
        ({"limit": 99}, [16, 16, 16, 2]),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_batch_sizes(noise: ArraySplit, settings: dict[str, int], sizes: list[int], seed: int | None) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    found = iter_batches(noise, rng=rng, **settings)
    assert [len(y) for _, y in found] == sizes


def test_shuffled_batches_hold_every_image_once_with_its_label(noise: ArraySplit) -> None:
    in_order, shuffled = collect(noise), collect(noise, rng=np.random.default_rng(0))
    known = {image.numpy().tobytes(): int(label) for image, label in zip(*in_order, strict=True)}
    found = [(image.numpy().tobytes(), int(label)) for image, label in zip(*shuffled, strict=True)]
    assert not torch.equal(in_order[0], shuffled[0])
    assert len(found) == len(dict(found)) == len(known)
    assert all(known[image] == label for image, label in found)


def test_the_same_generator_state_gives_the_same_batches_even_after_spawning(noise: ArraySplit) -> None:
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    second.spawn(3)
    x, y = collect(noise, rng=first, augment=("flip", "crop"))
    x_again, y_again = collect(noise, rng=second, augment=("flip", "crop"))
    assert torch.equal(x, x_again) and torch.equal(y, y_again)
    assert first.bit_generator.state == second.bit_generator.state


def test_a_second_epoch_from_the_same_generator_differs_in_order(noise: ArraySplit) -> None:
    rng = np.random.default_rng(4)
    first, second = (collect(noise, rng=rng) for _ in range(2))
    assert not torch.equal(first[1], second[1])


def test_a_second_epoch_from_the_same_generator_differs_in_augmentation(noise: ArraySplit) -> None:
    # Copies of one image: whatever differs between the epochs is not their order.
    copies = Subset(noise, np.zeros(50, dtype=np.int64))
    rng = np.random.default_rng(4)
    first, second = (collect(copies, rng=rng, augment=("crop",)) for _ in range(2))
    assert not torch.equal(first[0], second[0])


def test_iteration_does_not_draw_from_the_callers_generator(noise: ArraySplit) -> None:
    rng = np.random.default_rng(4)
    lazily = iter_batches(noise, rng=rng, augment=("crop",))
    state = rng.bit_generator.state
    list(lazily)
    assert rng.bit_generator.state == state


def test_augmentation_without_a_generator_is_refused_at_the_call(noise: ArraySplit) -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        iter_batches(noise, augment=("flip",))


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": 4, "limit": 0}])
def test_sizes_below_one_are_refused_at_the_call(noise: ArraySplit, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        iter_batches(noise, **settings)


def test_writing_into_a_batch_does_not_change_the_data(noise: ArraySplit) -> None:
    before = noise.load_images(np.arange(50))
    for x, y in iter_batches(noise):
        x.zero_()
        y.zero_()
    assert np.array_equal(before, noise.load_images(np.arange(50)))
    assert noise.labels.any()


def test_small_images_are_moved_to_a_gpu_once(noise: ArraySplit, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [4 * 50 * 16 * 12 * 3]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], free[0]))
    before = pickle.dumps(noise)
    held = batches._find_resident(noise, CPU)
    assert held is not None and batches._find_resident(noise, CPU) is held
    assert np.array_equal(held.numpy(), noise.load_images(np.arange(50))) and pickle.dumps(noise) == before
    free[0] -= 1
    other = ArraySplit(noise.load_images(np.arange(50)), noise.labels)
    assert batches._find_resident(other, CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_batches_that_the_cpu_gets(noise: ArraySplit) -> None:
    def on(device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(0)
        names = ("flip", "crop", "crop-reflect", "shift")
        return list(iter_batches(noise, device=torch.device(device), rng=rng, augment=names))

    for (x, y), (x_gpu, y_gpu) in zip(on("cpu"), on("cuda"), strict=True):
        assert x_gpu.is_cuda and y_gpu.is_cuda
        torch.testing.assert_close(x, x_gpu.cpu(), rtol=0, atol=1e-6)
        assert torch.equal(y, y_gpu.cpu())


def test_the_digest_is_stable_and_depends_on_every_part(tmp_path: Path) -> None:
    def digest(seed: int = 0, **settings: object) -> str:
        fixed = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        return load_numbered(tmp_path, [9, 9], [8, 8], seed, **(fixed | settings)).compute_digest()

    assert digest() == digest()
    others = [digest(seed=1), digest(val_size=4), digest(train_limit=5), digest(mean=(0.4, 0.5, 0.5))]
    assert len({digest(), *others}) == 5


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_the_digest_depends_on_every_pixel_and_label(name: str, noise: ArraySplit) -> None:
    splits = Splits(noise, noise, noise, classes=5, mean=MEAN, std=STD, augment=(), note="")
    pixels, labels = noise.load_images(np.arange(50)), noise.labels.copy()
    pixels[37, 3, 3, 1] ^= 1
    labels[37] = (labels[37] + 1) % 5
    other_pixel = replace(splits, **{name: ArraySplit(pixels, noise.labels)})  # type: ignore[arg-type]
    other_label = replace(splits, **{name: ArraySplit(noise.load_images(np.arange(50)), labels)})  # type: ignore[arg-type]
    assert len({splits.compute_digest(), other_pixel.compute_digest(), other_label.compute_digest()}) == 3


def test_the_digest_of_large_data_reads_a_sample_from_first_to_last(
    noise: ArraySplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counted(Subset):
        def load_images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
            read.extend(indices.tolist())
            return super().load_images(indices)

    many = Counted(noise, np.arange(1000) % 50)
    splits = Splits(many, noise, noise, classes=5, mean=MEAN, std=STD, augment=(), note="")
    whole = splits.compute_digest()
    assert read == list(range(1000))
    read.clear()
    monkeypatch.setattr("blendsearch.data.splits.DIGEST_BYTES", 10_000)
    assert splits.compute_digest() != whole
    assert len(set(read)) == 64 and read[0] == 0 and read[-1] == 999


def test_labels_without_an_output_are_refused_with_their_split(noise: ArraySplit) -> None:
    beyond = ArraySplit(noise.load_images(np.arange(3)), np.array([0, 7, 1]))
    splits = Splits(noise, beyond, noise, classes=8, mean=MEAN, std=STD, augment=(), note="")
    check_labels(splits, outputs=8)
    with pytest.raises(DataError, match=r"val data have label 7 \(1 images outside\); expected 0\.\.6"):
        check_labels(splits, outputs=7)


@pytest.mark.parametrize(
    ("sizes", "total", "spare", "expected"),
    [
        ([10, 10, 10], 6, 1, [2, 2, 2]),
        ([91, 1, 1, 1, 1, 1, 1, 1, 1, 1], 10, 0, [1] * 10),
        ([90, 10], 5, 1, [4, 1]),
        ([99, 2], 99, 1, [98, 1]),
        ([5, 0, 5], 4, 1, [2, 0, 2]),
        ([3, 3], 6, 1, None),
        ([3, 3], 1, 1, None),
        ([5, 1], 3, 1, None),
    ],
)
def test_allocation_prefers_presence_to_proportion(
    sizes: list[int], total: int, spare: int, expected: list[int] | None
) -> None:
    counts = allocate_proportionally(np.array(sizes), total, spare=spare)
    assert (None if counts is None else counts.tolist()) == expected
