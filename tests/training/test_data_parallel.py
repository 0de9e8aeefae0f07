"""Training by two processes on half of every batch each equals training by one process."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.task import Task
from blendsearch.training.data_parallel import wrap_data_parallel
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import TrainingOptions
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=0.4, rate=0.05, batch_size=32)


def plain(*more: nn.Module) -> nn.Module:
    """A network without batch-norms, and with parameters that no output depends on."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *more),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )
    module[0].register_parameter("idle", nn.Parameter(torch.ones(3)))
    return module


def own_loss(output: Tensor, targets: Tensor) -> Tensor:
    """One loss per image that is not the cross-entropy."""
    return (output - nn.functional.one_hot(targets, 10)).square().sum(dim=1)


def trained(case: str, share: Share, splits: Splits) -> dict[str, Tensor]:
    """Return the state of a network after training `case`; the second process starts with other weights."""
    torch.manual_seed(0)
    module = (
        digits_net(width=8) if case == "batch-norm" else plain(nn.Dropout() if case == "dropout" else nn.Identity())
    )
    teacher = LiveTeacher(digits_net(width=8).eval(), 0.5) if case == "distillation" else None
    if share.rank:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1)
    rng = np.random.default_rng(5)
    task = Task(loss=own_loss) if case == "own loss" else Task()
    train(module, splits, SCHEDULE, CPU, rng, TrainingOptions(task=task, teacher=teacher, share=share))
    assert not module.training
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


CASES = ("plain", "batch-norm", "distillation", "own loss", "dropout")


def take_part(rank: int, folder: str) -> None:
    """Train all cases as one of two processes and save the results."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    splits = load_splits(DataSpec("digits"), 0)
    found = {case: trained(case, Share(rank, 2), splits) for case in CASES}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of every case in this process, the first of the two, and in the other one."""
    folder = tmp_path_factory.mktemp("together")
    other = torch.multiprocessing.get_context("spawn").Process(target=take_part, args=(1, str(folder)), daemon=True)
    other.start()
    take_part(0, str(folder))
    other.join()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(DataSpec("digits"), 0)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_same_network_bit_for_bit(case: str, together: list) -> None:
    ours, theirs = (found[case] for found in together)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("case", ["plain", "batch-norm", "distillation", "own loss"])
def test_data_parallel_training_equals_training_in_one_process(case: str, together: list, splits: Splits) -> None:
    torch.set_num_threads(1)
    alone, found = trained(case, SINGLE_PROCESS, splits), together[0][case]
    assert alone.keys() == found.keys()
    untrained = digits_net(width=8) if case == "batch-norm" else plain(nn.Identity())
    far = max(float((alone[name] - tensor).abs().max()) for name, tensor in untrained.state_dict().items())
    assert far > 0.01, "nothing was trained"
    for name, tensor in alone.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_dropout_differs_between_processes(together: list, splits: Splits) -> None:
    alone, found = trained("dropout", SINGLE_PROCESS, splits), together[0]["dropout"]
    assert not all(torch.allclose(alone[name], found[name], atol=1e-5) for name in alone)


@pytest.mark.parametrize("of", [1, 2, 4])
def test_shares_of_batches_are_disjoint_and_make_up_the_batches(of: int, splits: Splits) -> None:
    def read(share: Share) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(1)
        options = {"batch_size": 32, "limit": 100, "drop_last": True}
        return list(splits.iter_batches(splits.train, device=CPU, rng=rng, share=share, **options))

    whole = read(SINGLE_PROCESS)
    parts = [read(Share(rank, of)) for rank in range(of)]
    assert len(whole) == 3
    for place, (images, labels) in enumerate(whole):
        for rank, part in enumerate(parts):
            assert torch.equal(part[place][0], images[rank::of])
            assert torch.equal(part[place][1], labels[rank::of])


def test_every_process_draws_its_own_augmentation(splits: Splits) -> None:
    def read(share: Share) -> Tensor:
        rng = np.random.default_rng(1)
        options = {"batch_size": 64, "augment": ("crop",)}
        return next(splits.iter_batches(splits.train, device=CPU, rng=rng, share=share, **options))[0]

    one = read(Share(0, 2))
    assert torch.equal(one, read(Share(0, 2)))
    assert not torch.equal(read(SINGLE_PROCESS)[::2], one)


def test_a_single_process_does_not_wrap_the_network(tmp_path: Path) -> None:
    module = digits_net(width=8)
    with wrap_data_parallel(module, SINGLE_PROCESS, CPU) as inside:
        assert inside is module
