"""Batches of images that are not in memory: processes, seeds, skipping, and what happens when reading fails."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sources import MirroredMasks, NoisyImages
from PIL import Image
from torch.utils.data import DataLoader

from blendsearch.data import image_loader, worker_processes
from blendsearch.data.share import Share
from blendsearch.data.sources import UserData
from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.data.user_data import load_user_splits
from blendsearch.data.worker_processes import limit_by_shared_memory, resolve_workers
from blendsearch.errors import DataError
from blendsearch.task import Task

CPU = torch.device("cpu")
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def _start_processes_for_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_loader, "MIN_WORKER_IMAGES", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 16 JPEG images of 60x40 pixels for each of two classes."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for index in range(16):
                pixels = np.kron(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
                Image.fromarray(pixels[:40, :60]).save(root / part / name / f"{index}.jpg")
    return root


def open_folder(root: Path, **changes: Any) -> Splits:
    return load_splits(DataSpec("image-folder", str(root), val_size=4, image_size=16, **changes), 0)


def open_dataset(source: Any, workers: Any = 0) -> Splits:
    return load_user_splits(UserData(source), Task(), DataSpec("python:it", val_size=6, workers=workers), 0)


def read(splits: Splits, seed: int | None = 1, **settings: Any) -> Batches:
    rng = None if seed is None else np.random.default_rng(seed)
    options = {"batch_size": 6, "device": CPU, "augment": () if seed is None else splits.augment} | settings
    return list(splits.iter_batches(splits.train, rng=rng, **options))


def equal(one: Batches, other: Batches) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, x_other) and torch.equal(y, y_other)
        for (x, y), (x_other, y_other) in zip(one, other, strict=True)
    )


def count_processes() -> int:
    """Count the processes below this one that read images; the server that starts them is idle and not counted."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    below = {str(os.getpid())}
    for _ in range(4):
        below |= {pid for pid, parent, *_ in rows if parent in below}
    servers = {pid for pid, parent, *_ in rows if parent == str(os.getpid())}
    return len([pid for pid, parent, *_ in rows if parent in below and parent in servers])


def test_each_epoch_of_a_users_dataset_has_new_augmentations_and_evaluation_the_same() -> None:
    splits = open_dataset(NoisyImages())
    assert splits.augment == ("transforms",)
    rng = np.random.default_rng(3)
    epochs = [
        torch.cat([x for x, _ in splits.iter_batches(splits.train, batch_size=6, device=CPU, rng=rng, augment=names)])
        for names in (splits.augment, splits.augment, (), ())
    ]
    first, second, third, fourth = ([image.sort()[0] for image in x.flatten(1)] for x in epochs)
    changed = torch.stack(sorted(first, key=lambda item: float(item[0]) // 36))
    again = torch.stack(sorted(second, key=lambda item: float(item[0]) // 36))
    assert (changed - again).abs().max() > 0.01 and (changed - again).abs().max() < 0.3
    assert {item.numpy().tobytes() for item in third} == {item.numpy().tobytes() for item in fourth}
    assert equal(read(splits, None), read(splits, None))


@pytest.mark.parametrize("kind", ["dataset", "folder", "imagenet"])
def test_batches_are_equal_for_every_number_of_workers(kind: str, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))

    def open_source(workers: int) -> Splits:
        if kind == "dataset":
            return open_dataset(NoisyImages(), workers)
        return open_folder(folder, workers=workers, transforms="imagenet" if kind == "imagenet" else "none")

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected, in_order = read(open_source(0)), read(open_source(0), None)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for workers in (1, 2):
        assert equal(read(open_source(workers)), expected)
        assert equal(read(open_source(workers), None), in_order)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    assert count_processes() == 0
    if kind != "folder":
        assert not equal(read(open_source(0), 2), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["memory", "dataset", "folder", "cifar"])
def test_skipped_batches_change_no_later_one(kind: str, workers: int, folder: Path) -> None:
    if kind == "memory":
        splits = load_splits(DataSpec("digits", train_limit=40, augment=("flip", "crop", "crop-reflect", "shift")), 0)
    elif kind == "dataset":
        splits = open_dataset(NoisyImages(), workers)
    else:
        splits = open_folder(folder, workers=workers, transforms=kind if kind == "cifar" else "imagenet")
    for settings in ({}, {"drop_last": True, "limit": 27}, {"share": Share(1, 2)}):
        whole = read(splits, **settings)
        for skip in (0, 2, len(whole) - 1, len(whole), len(whole) + 3):
            assert equal(read(splits, skip=skip, **settings), whole[skip:])


def test_skipping_reads_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = NoisyImages()
    splits, seen = open_dataset(data), []
    monkeypatch.setattr(NoisyImages, "__getitem__", lambda self, index: seen.append(index) or (self.pixels[index], 0))
    assert len(read(splits, skip=4)) == 2 and len(seen) == len(splits.train) - 24


def test_skip_is_at_least_zero() -> None:
    with pytest.raises(ValueError, match="skip is at least 0"):
        read(open_dataset(NoisyImages()), skip=-1)


def test_shares_of_several_processes_make_up_the_batches_with_their_transforms() -> None:
    splits = open_dataset(NoisyImages())
    whole = read(splits)
    for rank in (0, 1):
        assert equal(read(splits, share=Share(rank, 2)), [(x[rank::2], y[rank::2]) for x, y in whole])


def test_a_target_that_is_transformed_with_its_image_stays_with_it() -> None:
    data = load_user_splits(UserData(MirroredMasks()), Task(loss=lambda *_: None), DataSpec("python:it", val_size=6), 0)
    mirrored = 0
    for x, y in read(data):
        assert torch.equal(x[:, 0], y)
        mirrored += int((x[:, 0, 0, 0] > x[:, 0, 0, 3]).sum())
    assert 0 < mirrored < len(data.train)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "item 17 of the train data cannot be read .KeyError: .row 17"),
        ("none", "item 17 of the train data: the train data yield a NoneType: expected .image, target."),
        ("small", r"item 17 of the train data has shape \(2, 2, 1\)"),
    ],
)
def test_an_item_that_fails_in_training_is_named(workers: int, kind: str, message: str) -> None:
    data = NoisyImages()
    spec = DataSpec("python:it", val_size=6, val_from="test", workers=workers)
    splits = load_user_splits(UserData(train=data, test=NoisyImages(12)), Task(), spec, 0)
    data.bad, data.kind = 17, kind
    with pytest.raises(DataError, match=message) as caught:
        read(splits)
    assert "\n" not in str(caught.value) and count_processes() == 0


@pytest.mark.parametrize("kind", ["raises", "none"])
def test_an_item_that_fails_at_the_first_reading_is_named(kind: str) -> None:
    with pytest.raises(DataError, match="item 17 of the full data") as caught:
        open_dataset(NoisyImages(bad=17, kind=kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named(workers: int, folder: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(folder), str(tmp_path / "copy")], check=True)
    splits = open_folder(tmp_path / "copy", workers=workers, transforms="imagenet")
    for file in (tmp_path / "copy" / "train").rglob("1?.jpg"):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=r"1\d.jpg: cannot be read as an image") as caught:
        read(splits)
    assert "\n" not in str(caught.value) and count_processes() == 0


def test_a_process_that_is_killed_ends_the_pass_with_one_line() -> None:
    data = NoisyImages()
    splits = open_dataset(data, 2)
    last = np.random.default_rng(1).permutation(len(splits.train))[-1]
    data.bad, data.kind = int(splits.train.indices[last]), "dies"  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="a process that reads images ended .*; set data.workers to 0") as caught:
        read(splits)
    assert "\n" not in str(caught.value) and count_processes() == 0


def test_a_pass_that_is_left_half_way_leaves_no_process() -> None:
    splits = open_dataset(NoisyImages(), 2)
    batches = splits.iter_batches(
        splits.train, batch_size=4, device=CPU, rng=np.random.default_rng(0), augment=splits.augment
    )
    assert count_processes() == 0
    next(batches)
    assert count_processes() == 2
    del batches
    deadline = time.monotonic() + 10
    while count_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert count_processes() == 0


SCRIPT = """
import os, sys, time
import numpy as np, torch
from blendsearch.data import image_loader
from blendsearch.data.splits import DataSpec, load_splits

print("started", flush=True)  # once: no other process runs this script
image_loader.MIN_WORKER_IMAGES = 8
spec = DataSpec("image-folder", sys.argv[1], val_size=4, image_size=16, transforms="imagenet", workers=2)
splits = load_splits(spec, 0)
batches = splits.iter_batches(
    splits.train, batch_size=4, device=torch.device("cpu"), rng=np.random.default_rng(0), augment=splits.augment
)
next(batches), next(batches)
print("reading", flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
print(len(list(batches)), flush=True)
"""


def run_script(folder: Path, tmp_path: Path, mode: str) -> "subprocess.Popen[str]":
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen([sys.executable, str(script), str(folder), mode], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_not_run_again(folder: Path, tmp_path: Path) -> None:
    output, _ = run_script(folder, tmp_path, "run").communicate(timeout=400)
    assert output.split() == ["started", "reading", "5"]


def list_descendants(pid: int) -> set[int]:
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in found.splitlines()]
    below = {pid}
    for _ in range(4):
        below |= {child for child, parent in rows if parent in below}
    return below - {pid}


def test_no_process_survives_a_killed_search(folder: Path, tmp_path: Path) -> None:
    with run_script(folder, tmp_path, "wait") as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["started", "reading"]
        started = list_descendants(process.pid)
        assert len(started) >= 3  # the server, and two that read
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == "", "another process ran the script too"
    deadline = time.monotonic() + 20
    while (alive := {pid for pid in started if Path(f"/proc/{pid}").exists()}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive


def test_a_local_dataset_is_read_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(NoisyImages):
        pass

    expected = read(open_dataset(Local(), 0))
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray", random))
    splits = open_dataset(Local(), 2)
    with pytest.warns(UserWarning, match="cannot be pickled .*it is read in this process") as caught:
        assert equal(read(splits), expected) and equal(read(splits), expected)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    monkeypatch.delitem(sys.modules, "ray")
    splits = open_dataset(Local(), 2)
    with pytest.warns(UserWarning, match="a fork of this process reads it"):
        assert equal(read(splits), expected)
    assert count_processes() == 0


def test_workers_are_limited_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    cuda = torch.device("cuda")
    assert [resolve_workers(asked, CPU) for asked in (0, 3, 99, "auto")] == [0, 3, 4, 3]
    assert resolve_workers("auto", cuda) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert (resolve_workers("auto", CPU), resolve_workers("auto", cuda)) == (0, 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert resolve_workers("auto", cuda) == 4
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True}, raising=False)
    assert resolve_workers(3, CPU) == 0


def test_batches_in_flight_fit_in_the_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "_get_free_shared_memory", lambda: 100)
    assert limit_by_shared_memory(2, 10) == 2
    with pytest.warns(UserWarning, match="room for the batches of 1 of 4 data workers"):
        assert limit_by_shared_memory(4, 15) == 1
    with pytest.warns(UserWarning, match="of 0 of 4"):
        assert limit_by_shared_memory(4, 50) == 0


def test_the_workers_of_a_users_loader_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(image_loader, "resolve_workers", lambda workers, device: asked.append(workers) or 0)
    data = NoisyImages()
    for count, config in ((0, "auto"), (2, "auto"), (2, 1)):
        read(open_dataset(DataLoader(data, batch_size=5, shuffle=True, num_workers=count), config))
    read(open_dataset(data, "auto"))
    assert asked == [0, 2, 1, "auto"]


def test_splits_are_sent_to_other_processes_without_their_loaders(folder: Path) -> None:
    for splits in (open_folder(folder, workers=2, transforms="imagenet"), open_dataset(NoisyImages(), 2)):
        batches: Iterator[Any] = splits.iter_batches(
            splits.train, batch_size=4, device=CPU, rng=np.random.default_rng(1), augment=splits.augment
        )
        next(batches), next(batches)
        copied = pickle.loads(pickle.dumps(splits))
        assert equal(read(copied), read(splits)) and copied.compute_digest() == splits.compute_digest()
