"""Compare the speed of training data with minimal hand-written loops, in one run.

    python experiments/training/data_loading.py [--out data_loading.json] [--images 3200] [--repeats 5]

Ratios, each a median over alternating repetitions, so that other work on the machine slows both sides:

- in memory: images per second of `train` beside a hand-written loop on the same network, batch and augmentation;
- folder: images per second of `Splits.iter_batches` beside a plain DataLoader with the same transforms and workers, on
  random 224-pixel crops of JPEG files that the script writes (upscaled CIFAR-10 where ../shared/data has it, else
  noise), and on their centre crops;
- one by one: the former way to read a large Dataset, in the training process, beside the same DataLoader.

Both sides give normalised float batches on the CPU.
"""

import argparse
import importlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from blendsearch.data.datasets import DataSpec
from blendsearch.data.split import ArraySplit
from blendsearch.data.splits import Splits, load_splits
from blendsearch.data.user_data import UserData, load_user_splits
from blendsearch.task import Task
from blendsearch.zoo.cifar_resnet import cifar_resnet

CIFAR = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10-test.webp.npz"
SIZE = 224


def find_training() -> Any:
    """Return the module of the training loop, at its present or its former place."""
    try:
        return importlib.import_module("blendsearch.training.trainer")
    except ImportError:
        return importlib.import_module("blendsearch.fitness.training")


def compare(ours: Callable[[], int], other: Callable[[], int], repeats: int) -> dict[str, float]:
    """Measure images per second of both in turn; the ratio is the median of the repetitions' ratios.

    `main_process_ratio` is that of images per second of processor time of this process, which excludes other work on
    the machine, and processes that read images.
    """
    speeds: list[tuple[float, float]] = []
    processor_ratios: list[float] = []
    for repeat in range(repeats):
        pair = [ours, other] if repeat % 2 == 0 else [other, ours]
        timed, busy = {}, {}
        for function in pair:
            start, started = time.perf_counter(), time.process_time()
            images = function()
            timed[function] = images / (time.perf_counter() - start)
            busy[function] = images / (time.process_time() - started)
        speeds.append((timed[ours], timed[other]))
        processor_ratios.append(busy[ours] / busy[other])
    return {
        "images_per_second": statistics.median(speed for speed, _ in speeds),
        "hand_written_images_per_second": statistics.median(speed for _, speed in speeds),
        "ratio": statistics.median(one / two for one, two in speeds),
        "lowest_ratio": min(one / two for one, two in speeds),
        "highest_ratio": max(one / two for one, two in speeds),
        "main_process_ratio": statistics.median(processor_ratios),
    }


def load_cifar(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Load the first CIFAR-10 test images, or make noise of their shape."""
    rng = np.random.default_rng(0)
    if not CIFAR.exists():
        return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)
    packed = np.load(CIFAR)
    rows, columns, side = packed["grid"]
    blob, offsets = packed["webp"].tobytes(), packed["offsets"]
    images: list[np.ndarray] = []
    for start, end in itertools.pairwise(offsets):
        sheet = np.asarray(Image.open(io.BytesIO(blob[start:end])).convert("RGB"))
        images.extend(sheet.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3))
        if len(images) >= count:
            break
    return np.stack(images[:count]), packed["y"][:count].astype(np.int64)


def measure_memory(count: int, repeats: int) -> dict[str, float]:
    """Compare `train` with a minimal loop: ResNet-8 for 32-pixel images, batches of 128, flip and crop."""
    images, labels = load_cifar(count)
    split = ArraySplit(images, labels)
    mean, std = (np.full(3, value, dtype=np.float32) for value in (0.47, 0.25))
    splits = Splits(split, split, split, 10, mean, std, ("flip", "crop"), "")
    device, training = torch.device("cuda" if torch.cuda.is_available() else "cpu"), find_training()
    schedule = training.Schedule(epochs=1, rate=0.05)

    def run_ours() -> int:
        torch.manual_seed(0)
        training.train(cifar_resnet(depth=8).to(device), splits, schedule, device, np.random.default_rng(0))
        return count // 128 * 128

    def run_hand_written() -> int:
        torch.manual_seed(0)
        train_minimally(cifar_resnet(depth=8).to(device), torch.from_numpy(images), torch.from_numpy(labels), device)
        return count // 128 * 128

    run_ours()
    return compare(run_ours, run_hand_written, repeats)


def train_minimally(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> None:
    """Train for one epoch as a script written for this case alone would."""
    images, labels = images.permute(0, 3, 1, 2).contiguous().to(device), labels.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(images) // 128
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.randperm(len(images), device=device)
    model.train()
    for step in range(steps):
        chosen = order[step * 128 : (step + 1) * 128]
        x = images[chosen]
        x = torch.where((torch.rand(128, device=device) < 0.5)[:, None, None, None], x.flip(3), x)
        windows = F.pad(x, (4, 4, 4, 4)).unfold(2, 32, 1).unfold(3, 32, 1)
        top, left = torch.randint(9, (2, 128), device=device)
        x = windows[torch.arange(128, device=device), :, top, left]
        x = x.float().div_(255).sub_(0.47).div_(0.25)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def write_folder(root: Path, count: int) -> None:
    """Write JPEG files of 500 x 375 pixels: upscaled images, half for each of two classes."""
    images, _ = load_cifar(count + 16)
    for number, image in enumerate(images):
        part = "train" if number < count else "test"
        place = root / part / ("even" if number % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        large = Image.fromarray(image).resize((500, 375), Image.Resampling.BICUBIC)
        large.save(place / f"{number:05d}.jpg", quality=90)


def read_ours(splits: Splits, epoch: int = 0) -> int:
    """Read one epoch of training images."""
    batches = splits.iter_batches(
        splits.train,
        batch_size=64,
        device=torch.device("cpu"),
        rng=np.random.default_rng(epoch),
        augment=splits.augment,
    )
    return sum(len(y) for _, y in batches)


def measure_folder(root: Path, workers: int, repeats: int, former: bool) -> dict[str, float]:
    """Compare one epoch of random 224-pixel crops with a plain DataLoader; `former` reads items one by one."""
    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    plain = make_plain_loader(root, crop, workers)
    values = {"mean": (0.47,) * 3, "std": (0.25,) * 3, "val_from": "test", "val_size": 4}
    if former:
        dataset = ImageFolder(str(root / "train"), v2.Compose([*crop, v2.PILToTensor()]))
        held_out = ImageFolder(str(root / "test"), v2.Compose([v2.CenterCrop(SIZE), v2.PILToTensor()]))
        spec = DataSpec("python:it", **(values | {"workers": 0}))  # type: ignore[arg-type]
        splits = load_user_splits(UserData(train=dataset, val=held_out), Task(), spec, 0)
    else:
        spec = DataSpec("image-folder", str(root), transforms="imagenet", workers=workers, **values)  # type: ignore[arg-type]
        splits = load_splits(spec, 0)
    read_ours(splits)
    return compare(lambda: read_ours(splits), lambda: read_plain(plain), repeats)


def measure_centre(root: Path, workers: int, repeats: int) -> dict[str, float]:
    """Compare one epoch of centre crops with a plain DataLoader."""
    values = {"mean": (0.47,) * 3, "std": (0.25,) * 3, "val_from": "test", "val_size": 4}
    splits = load_splits(DataSpec("image-folder", str(root), image_size=SIZE, **values), 0)  # type: ignore[arg-type]
    plain = make_plain_loader(root, [v2.Resize(256), v2.CenterCrop(SIZE)], workers)
    read_ours(splits)
    return compare(lambda: read_ours(splits), lambda: read_plain(plain), repeats)


def make_plain_loader(root: Path, crop: list[Any], workers: int) -> DataLoader[Any]:
    """Make a loader as a script would, of uint8 pixels."""
    images = ImageFolder(str(root / "train"), v2.Compose([*crop, v2.PILToTensor()]))
    return DataLoader(images, batch_size=64, shuffle=True, num_workers=workers)


def read_plain(loader: DataLoader[Any]) -> int:
    """Read one epoch and normalise its batches."""
    count = 0
    for x, y in loader:
        x.float().div_(255).sub_(0.47).div_(0.25)
        count += len(y)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    count, repeats = arguments.images, arguments.repeats
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "workers": arguments.workers,
        "images": count,
        "repeats": repeats,
        "load_average": os.getloadavg()[0],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "in_memory_training": measure_memory(count, repeats),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), count)
        figures["folder_224"] = measure_folder(Path(folder), arguments.workers, repeats, former=False)
        figures["folder_224_centre"] = measure_centre(Path(folder), arguments.workers, repeats)
        figures["one_by_one_224"] = measure_folder(Path(folder), arguments.workers, repeats, former=True)
    for name in ("in_memory_training", "folder_224", "folder_224_centre", "one_by_one_224"):
        found = figures[name]
        print(
            f"{name}: {found['images_per_second']:,.0f} images/s, hand-written "
            f"{found['hand_written_images_per_second']:,.0f}, ratio {found['ratio']:.3f} "
            f"({found['lowest_ratio']:.3f} to {found['highest_ratio']:.3f}), by processor time of the main process "
            f"{found['main_process_ratio']:.3f}",
            flush=True,
        )
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
