"""Distillation: the loss, and the stored outputs of a teacher beside a teacher that runs."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from evaluations import load_digits_splits
from torch import nn

from blendsearch.data.batches import BatchSize
from blendsearch.data.share import SINGLE_PROCESS
from blendsearch.data.views import KeyedDraws, iter_view_batches, load_views
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import StoredTeacher, compute_logits, load_or_compute_logits
from blendsearch.training.teacher import LiveTeacher, combine_losses
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore, NoStore
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    targets, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    logits = torch.randn(5, 3, requires_grad=True)
    loss = F.cross_entropy(logits, labels)
    assert combine_losses(loss, logits, targets, 0.0, 4.0) == loss
    wanted = torch.softmax(targets / 4, dim=1)
    divergence = (wanted * (wanted.log() - torch.log_softmax(logits / 4, dim=1))).sum(dim=1).mean()
    found = combine_losses(loss, logits, targets, 0.25, 4.0)
    np.testing.assert_allclose(found.item(), (0.75 * loss + 0.25 * 16 * divergence).item(), rtol=1e-5)
    np.testing.assert_allclose(combine_losses(loss, targets, targets, 1.0, 4.0).item(), 0, atol=1e-6)


def test_a_view_of_an_image_is_the_same_in_every_batch() -> None:
    splits = load_digits_splits(augment=("shift",))
    positions, views = np.arange(40), np.arange(40) % 4
    whole = load_views(splits, positions, views, 7, CPU)
    order = np.random.default_rng(0).permutation(40)[:9]
    part = load_views(splits, positions[order], views[order], 7, CPU)
    torch.testing.assert_close(part.images, whole.images[order], rtol=0, atol=0)
    other = load_views(splits, positions, views, 8, CPU)
    assert (other.images != whole.images).any()
    assert (load_views(splits, positions, views + 1, 7, CPU).images != whole.images).any()


def test_keyed_draws_are_uniform_and_independent_of_the_key() -> None:
    draws = KeyedDraws(3, np.arange(20_000), np.zeros(20_000, dtype=np.int64))
    first, second = draws.random(20_000), draws.integers(9, size=20_000)
    assert abs(first.mean() - 0.5) < 0.01 and abs(first.var() - 1 / 12) < 0.005
    np.testing.assert_allclose(np.bincount(second, minlength=9) / 20_000, 1 / 9, atol=0.01)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_an_epoch_of_views_has_every_image_once_and_can_begin_in_its_middle() -> None:
    splits = load_digits_splits(augment=("shift",))

    def run(skip: int) -> list[tuple[list[int], torch.Tensor]]:
        batches = iter_view_batches(
            splits,
            BatchSize(50, len(splits.train), True, SINGLE_PROCESS),
            views=3,
            seed=0,
            device=CPU,
            rng=np.random.default_rng(1),
            skip=skip,
        )
        return [(batch.positions.tolist(), batch.images) for batch in batches]

    whole, rest = run(0), run(3)
    seen = [position for positions, _ in whole for position in positions]
    assert len(set(seen)) == len(seen) == len(splits.train) // 50 * 50
    assert [positions for positions, _ in rest] == [positions for positions, _ in whole[3:]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[3:], strict=True))


def test_an_epoch_with_a_stored_teacher_equals_one_with_a_live_teacher() -> None:
    """Both see the same views; the stored outputs differ by the rounding to float16 alone."""
    splits = load_digits_splits(augment=("shift",))
    torch.manual_seed(0)
    teacher, student = digits_net(width=8).eval(), digits_net(width=4).eval()
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    stored = StoredTeacher(compute_logits(teacher, splits, 3, 5, CPU), 0.7, view_seed=5)
    trained = []
    for source in (stored, LiveTeacher(teacher, 0.7, views=3, view_seed=5), stored):
        student.load_state_dict(start)
        train(student, splits, Schedule(1, 0.05, 50), CPU, np.random.default_rng(2), TrainingOptions(teacher=source))
        trained.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=2e-2, atol=2e-3)
        torch.testing.assert_close(trained[2][name], tensor, rtol=0, atol=0)
    assert any((trained[0][name] != start[name]).any() for name in start)


def test_a_training_does_not_continue_one_with_another_teacher(tmp_path: Path) -> None:
    splits, store = load_digits_splits(augment=("shift",)), FolderStore(tmp_path)
    torch.manual_seed(0)
    teacher, student = digits_net(width=4).eval(), digits_net(width=4).eval()
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    steps = []
    for source in (None, LiveTeacher(teacher, 0.7), LiveTeacher(teacher, 0.5), LiveTeacher(teacher, 0.5)):
        student.load_state_dict(start)
        taken: list[int] = []
        options = TrainingOptions(
            teacher=source,
            checkpoints=CheckpointOptions(store, "one", keep=True),
            after_step=lambda *_, taken=taken: taken.append(1),
        )
        train(student, splits, Schedule(1, 0.05, 50), CPU, np.random.default_rng(2), options)
        steps.append(len(taken))
    assert steps[0] == steps[1] == steps[2] > 0 and steps[3] == 0  # the last one finds its own finished state


def test_stored_logits_are_computed_once_and_mapped_into_memory(tmp_path: Path) -> None:
    splits = load_digits_splits(augment=("shift",))
    teacher, store = digits_net(width=4).eval(), FolderStore(tmp_path / "training")
    first = load_or_compute_logits(store, "teacher", teacher, splits, 2, 0, CPU)
    assert first.dtype == np.float16 and first.shape == (2, len(splits.train), 10)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    again = load_or_compute_logits(store, "teacher", teacher, splits, 2, 0, CPU)
    assert not calls and not again.flags.writeable
    np.testing.assert_array_equal(again, first)
    for views, seed in ((1, 0), (2, 1)):  # the halves of two views would fit one with twice the classes
        other = load_or_compute_logits(store, "teacher", teacher, splits, views, seed, CPU)
        assert calls and other.shape == (views, len(splits.train), 10)
        calls.clear()
    (tmp_path / "training" / "teacher.bin").write_bytes(b"damaged")
    np.testing.assert_array_equal(load_or_compute_logits(store, "teacher", teacher, splits, 2, 0, CPU), first)
    assert calls
    assert load_or_compute_logits(NoStore(), "teacher", nn.Sequential(teacher), splits, 1, 0, CPU).shape[0] == 1
