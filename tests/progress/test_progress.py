"""What a search says while it runs: counts that add up, a view of them, and plain lines in a pipe."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import blendsearch as bs
from blendsearch.events import (
    Evaluated,
    Event,
    FinalTrained,
    FineTuned,
    GenerationAsked,
    GenerationDone,
    Resumed,
    RunCreated,
    RungTrained,
)
from blendsearch.progress import TextProgress
from blendsearch.progress.lines import format_event
from blendsearch.progress.live import format_trend, render_state
from blendsearch.progress.state import ProgressState

Events = list[Event]


def searched(
    folder: Path,
    name: str,
    heard: Events,
    stop_at: int | None = None,
    resumed: bool = False,
    evolution: Mapping[str, Any] = {"population": 8},
) -> None:
    def report(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Evaluated) and event.id == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(384, 2)
    )
    drawn_images = torch.Generator().manual_seed(0)
    data = torch.randn(120, 1, 8, 8, generator=drawn_images), torch.arange(120) % 2
    if resumed:
        bs.resume(name, model=model, data=data, runs=folder, progress=report)
        return
    bs.search(
        model,
        data,
        budget=bs.macs(0.2, 0.7),
        evaluations=40,
        criteria=["l1", "apoz"],
        evolution=evolution,
        engine={"threads": 1},
        finals={"picks": 0},
        device="cpu",
        name=name,
        runs=folder,
        progress=report,
    )


@pytest.mark.parametrize("schedule", ["generational", "steady"])
def test_both_schedules_are_told_alike(schedule: str, tmp_path: Path) -> None:
    heard: Events = []
    searched(tmp_path, "one", heard, evolution={"population": 8, "schedule": schedule})
    state = told(heard)
    assert (state.done, state.cached, state.failed) == (40, 0, 0)
    assert state.workers == 1 and state.best is not None and len(state.hypervolumes) > 1
    assert state.best.loss == min(
        event.loss for event in heard if isinstance(event, Evaluated) and event.loss is not None
    )


def told(heard: Events) -> ProgressState:
    state = ProgressState(40)
    for event in heard:
        state.update(event)
    return state


def test_counts_add_up_also_after_an_interruption(tmp_path: Path) -> None:
    whole: Events = []
    searched(tmp_path, "whole", whole)
    state = told(whole)
    assert (state.done, state.cached, state.failed) == (40, 0, 0)
    assert state.generation + 1 == len(state.hypervolumes) and state.busy == 0 and state.workers == 1
    first: Events = []
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, "stopped", first, stop_at=30)
    second: Events = []
    searched(tmp_path, "stopped", second, resumed=True)
    again = told(second)
    kinds = [event.kind for event in second]
    assert again.done == 40 and again.cached > 0  # of the generation that was under way
    assert (
        again.cached
        + kinds.count("evaluated")
        + next(event for event in second if isinstance(event, Resumed)).evaluations
        == 40
    )
    assert again.best is not None and state.best is not None and again.best.loss == state.best.loss
    assert again.hypervolumes == state.hypervolumes


def generation_done(generation: int, hypervolume: float) -> GenerationDone:
    counts = {"generation": generation, "evaluations": 16, "seconds": 1.0, "front": 2}
    return GenerationDone(**counts, hypervolume=hypervolume, best_loss=0.5)


def test_the_view_shows_what_there_is_to_know() -> None:
    now = [0.0]
    state = ProgressState(100, clock=lambda: now[0])
    state.update(GenerationAsked(generation=3, before=40, candidates=8, cached=2, workers=4))
    assert state.busy == 4
    load = {"workers": 4, "busy": 3}
    row = {"origin": "evolved", "error": 0.25, "macs_ratio": 0.4, "params_ratio": 0.5, "seconds": 1.0, "failure": ""}
    for number, loss in enumerate((0.7, 0.5, None)):
        now[0] += 2
        state.update(Evaluated(id=43 + number, loss=loss, **row, **load))
    state.update(generation_done(4, 0.25))
    state.update(generation_done(4, 0.75))
    state.busy = 3
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_state(state, 100))
    said = console.export_text()
    assert "generation 4: 45 done, 2 from the store, 1 failed" in said
    assert "network 44: loss 0.5000, accuracy 75.00%, 40.00% of MACs" in said
    assert "▁█ 0.7500" in said and "3 of 4 busy, 30.0 evaluations a minute" in said
    assert "45 of 100" in said and "1:50 left" in said
    assert format_trend([1.0, 1.0]) == "▅▅"


def test_a_pipe_gets_plain_lines() -> None:
    held = io.StringIO()
    lines = TextProgress(Console(file=held, width=200), 20)
    lines(RunCreated(run="one", path="runs/one"))
    lines(GenerationAsked(generation=1, before=8, candidates=8, cached=3, workers=1))
    lines(generation_done(2, 0.7))
    lines.close()
    assert "\x1b" not in held.getvalue()
    first, second, third = held.getvalue().splitlines()
    assert first == "run one in runs/one" and second == "3 of generation 2 were evaluated before and are not repeated"
    assert "16 evaluations" in third and "hypervolume 0.7000" in third


def test_a_rung_names_the_metric_of_the_task() -> None:
    event = RungTrained(id=3, origin="evolved", rung=1, rungs=3, share=0.1, loss=0.5, error=0.25)
    assert "validation mAP 75.00%, loss 0.5000" in next(format_event(event, "mAP"))
    assert "validation accuracy 75.00%" in next(format_event(event))
    assert "validation loss 0.5000" in next(format_event(event, None))


def test_a_fine_tune_shows_epochs_pace_and_time_left() -> None:
    state, stream = ProgressState(10), io.StringIO()
    event = FineTuned(
        key="net", done=0.3, epoch=3.0, epochs=10.0, loss=0.512, images_per_second=1234.5, seconds_left=75.0
    )
    state.update(FinalTrained(done=1, of=2))
    state.update(event)
    Console(file=stream, width=100).print(render_state(state, 100))
    assert "fine-tuning" in stream.getvalue()
    assert "epoch 3.0 of 10, loss 0.5120, 1,234 images/s, 1:15 left" in stream.getvalue()
    assert event.to_dict()["epoch"] == 3.0
