"""Fine-tunes of an evaluator: continuation, stored teachers, and user-defined training."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import make_evaluator, make_requests
from torch import nn

from blendsearch.errors import TrainingError
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.training.hooks import StepInfo, TrainContext, TrainingHooks
from blendsearch.training.recovery import TEACHER_KEY
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_store import FolderStore

(REQUEST,) = make_requests(1, "final")
REQUEST = REQUEST._replace(return_weights=True)


def make(store: FolderStore | None = None, **recipe: Any) -> Evaluator:
    evaluator = make_evaluator()
    changed = dataclasses.replace(evaluator.recipe, checkpoint_seconds=0.0, **recipe)
    changes: dict[str, Any] = {"recipe": changed} | ({} if store is None else {"store": store})
    return dataclasses.replace(evaluator, **changes)


def assert_same(first: Outcome, second: Outcome) -> None:
    assert (first.loss, first.error) == (second.loss, second.error)
    assert first.weights is not None and second.weights is not None
    for name, array in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], array)


class Interruption(Exception):
    pass


def stop_after(step: int) -> TrainingHooks:
    def stop(info: StepInfo) -> None:
        if info.step > step:
            raise Interruption

    return TrainingHooks(on_step=stop)


def count_steps(steps: list[int]) -> TrainingHooks:
    return TrainingHooks(on_step=lambda info: steps.append(info.step))


def test_an_interrupted_final_continues_and_stays_until_its_result_is_stored(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "training")
    wanted = make().evaluate(REQUEST)
    with pytest.raises(Interruption):
        make(store, hooks=stop_after(3)).evaluate(REQUEST)
    steps: list[int] = []
    assert_same(wanted, make(store, hooks=count_steps(steps)).evaluate(REQUEST))
    assert steps[0] == 4
    # killed after the last step, before the result was stored: nothing is trained again
    steps.clear()
    assert_same(wanted, make(store, hooks=count_steps(steps)).evaluate(REQUEST))
    assert not steps
    store.delete(REQUEST.key)
    assert not (tmp_path / "training").exists()


def test_a_short_fine_tune_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "training")
    outcome = make(store).evaluate(REQUEST._replace(fidelity="tuned"))
    assert not outcome.failure and not (tmp_path / "training").exists()


def test_the_dense_outputs_are_stored_once_for_all_fine_tunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "training")
    distilled = {"distillation": 0.5, "tuning_distillation": 0.5, "views": 2}
    first = make(store, **distilled).evaluate(REQUEST)
    assert store.map(TEACHER_KEY) is not None
    evaluator = make(store, **distilled)
    monkeypatch.setattr("blendsearch.training.stored_teacher.compute_logits", None)
    store.delete(REQUEST.key)
    assert_same(first, evaluator.evaluate(REQUEST))
    assert not evaluator.evaluate(REQUEST._replace(fidelity="tuned")).failure
    live = make(distillation=0.5).evaluate(REQUEST)
    assert live.loss != first.loss and not live.failure


def test_a_request_can_name_the_learning_rate() -> None:
    (request,) = make_requests(1, "probe")
    final = Schedule(0.4, float("nan"), 32)
    evaluator = make(final=final, probe_epochs=0.4)
    assert evaluator.evaluate(request._replace(rate=0.05)).loss != evaluator.evaluate(request._replace(rate=0.01)).loss
    with pytest.raises(TrainingError, match="loss is nan"):
        evaluator.evaluate(request)


def train_plainly(module: nn.Module, context: TrainContext) -> dict[str, float]:
    data = make_evaluator().splits
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    generator = np.random.default_rng(context.seed)
    for images, labels in data.iter_batches(data.train, batch_size=100, device=context.device, rng=generator):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"last_loss": float(loss)}


def test_a_user_defined_training_replaces_the_built_in_one(tmp_path: Path) -> None:
    contexts: list[TrainContext] = []

    def train_fn(module: nn.Module, context: TrainContext) -> dict[str, float]:
        contexts.append(context)
        assert module.training and context.directory.is_dir()
        (context.directory / "state.txt").write_text("half-way")
        return train_plainly(module, context)

    store = FolderStore(tmp_path)
    outcome = make(store, hooks=TrainingHooks(train_fn=train_fn)).evaluate(REQUEST)
    (context,) = contexts
    assert (context.epochs, context.start, context.stop, context.device.type) == (0.4, 0.0, 1.0, "cpu")
    assert context.seed == REQUEST.seed and not context.directory.exists()
    assert not outcome.failure
    assert_same(outcome, make(hooks=TrainingHooks(train_fn=train_plainly)).evaluate(REQUEST))


def test_an_interrupted_user_defined_training_finds_its_files_again(tmp_path: Path) -> None:
    def stop(module: nn.Module, context: TrainContext) -> None:
        (context.directory / "state.txt").write_text("half-way")
        raise Interruption

    found: list[str] = []

    def continue_training(module: nn.Module, context: TrainContext) -> None:
        found.append((context.directory / "state.txt").read_text())

    store = FolderStore(tmp_path)
    with pytest.raises(Interruption):
        make(store, hooks=TrainingHooks(train_fn=stop)).evaluate(REQUEST)
    make(store, hooks=TrainingHooks(train_fn=continue_training)).evaluate(REQUEST)
    assert found == ["half-way"] and not list(tmp_path.iterdir())


def add_layer(module: nn.Module, context: TrainContext) -> None:
    module.extra = nn.Linear(2, 2)


def diverge(module: nn.Module, context: TrainContext) -> None:
    next(module.parameters()).data.fill_(float("nan"))


def return_list(module: nn.Module, context: TrainContext) -> Any:
    return [1.0]


async def train_later(module: nn.Module, context: TrainContext) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (add_layer, "add_layer changed extra"),
        (diverge, "left NaN or infinity"),
        (return_list, "returned list"),
        (train_later, "asynchronous"),
    ],
)
def test_a_wrong_user_defined_training_is_refused_in_one_line(function: Any, expected: str) -> None:
    with pytest.raises(TrainingError, match=expected) as caught:
        make(hooks=TrainingHooks(train_fn=function)).evaluate(REQUEST)
    assert "\n" not in str(caught.value)


def test_requests_of_one_cut_have_different_keys() -> None:
    requests: list[Request] = [*make_requests(2, "final"), *make_requests(1, "tuned"), REQUEST._replace(seed=7)]
    assert len({request.key for request in requests}) == 4
