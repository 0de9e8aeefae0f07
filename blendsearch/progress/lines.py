"""What a search says while it runs: plain lines in a pipe, JSON lines on request."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console

from blendsearch.progress.live import LiveView
from blendsearch.progress.state import ProgressState


class JsonLines:
    """One JSON object per event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        print(json.dumps({"event": kind, **facts}), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is held."""


class TextProgress:
    """One plain line per generation and per milestone, for a pipe or a log; on a terminal a live view below them."""

    def __init__(self, console: Console, evaluations: int) -> None:
        self._console = console
        self._started = time.monotonic()
        self._state = ProgressState(evaluations)
        self._view: LiveView | None = LiveView(console, self._state) if console.is_terminal else None

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._state.update(kind, facts)
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(facts)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _on_traced(self, facts: Mapping[str, Any]) -> None:
        least = ", ".join(f"{ratio:.1%} of {name}" for name, ratio in facts["reachable"].items())
        frozen = f", {facts['frozen']} frozen" if facts["frozen"] else ""
        self._print(f"{facts['groups']} groups can be cut{frozen}; reachable: down to {least}")

    def _on_measuring(self, facts: Mapping[str, Any]) -> None:
        self._print(f"measuring the latency of {facts['cuts']} cuts on {facts['where']}")

    def _on_latency(self, facts: Mapping[str, Any]) -> None:
        self._print(
            f"dense network: {facts['dense_ms']:.2f} ms; the latency model is off by {facts['error_median']:.1%} in "
            f"the median of {facts['held_out']} held-out cuts, at most {facts['error_most']:.1%}; cuts are charged "
            f"{facts['margin']:.1%} more than it predicts; reachable: down to {facts['reachable']:.1%} of latency"
        )

    def _on_latencies(self, facts: Mapping[str, Any]) -> None:
        slower = f"; {facts['slower']} slower than charged" if facts["slower"] else ", none slower than charged"
        self._print(f"latency of {facts['networks']} networks measured on {facts['where']}{slower}")

    def _on_training(self, facts: Mapping[str, Any]) -> None:
        if facts["done"] == 1:
            self._print(f"base network trained, last loss {facts['loss']:.3f}")

    def _on_probed(self, facts: Mapping[str, Any]) -> None:
        if facts["done"] == facts["of"]:
            self._print(f"sensitivity: {facts['of']} networks judged")

    def _on_derived(self, facts: Mapping[str, Any]) -> None:
        kept = f"{facts['macs_ratio']:.1%} of macs  {facts['params_ratio']:.1%} of params"
        end = "" if facts["stands"] else "  taken back"
        self._print(f"derived step {facts['step']:>3}  {kept}  validation accuracy {facts['val_accuracy']:.2%}{end}")

    def _on_tailored(self, facts: Mapping[str, Any]) -> None:
        kept = f"{facts['macs_ratio']:.1%} of macs  {facts['params_ratio']:.1%} of params"
        end = f"loss {facts['loss']:.4f}  validation accuracy {facts['val_accuracy']:.2%}"
        self._print(f"tailored epoch {facts['epoch']:>3} of {facts['of']}  {kept}  {end}")

    def _on_scored(self, facts: Mapping[str, Any]) -> None:
        self._print(f"{len(facts['criteria'])} criteria scored")
        left_out = [item for item in facts["left_out"] if item["reason"] != "does not apply"]
        for item in left_out[:5]:
            self._print(f"  left out: {item['criterion']} in {item['group']}: {item['reason']}")
        if len(left_out) > 5:
            self._print(f"  and {len(left_out) - 5} more")

    def _on_run(self, facts: Mapping[str, Any]) -> None:
        self._print(f"run {facts['run']} in {facts['path']}")

    def _on_forked(self, facts: Mapping[str, Any]) -> None:
        taken = f"{facts['judgements']} judgements are taken over"
        if facts["again"]:
            taken = f"no judgement is taken over, since {facts['again']}"
        self._print(f"forked from {facts['parent']}: {facts['begins']} of its networks begin the search; {taken}")
        for field, (old, new) in facts["changed"].items():
            self._print(f"  {field}: {old} -> {new}")

    def _on_dense(self, facts: Mapping[str, Any]) -> None:
        if facts["loss"] is not None:
            accuracy = f"accuracy {1 - facts['error']:.2%}, " if facts.get("tells_error", True) else ""
            self._print(f"dense network: validation {accuracy}loss {facts['loss']:.4f}")

    def _on_generation(self, facts: Mapping[str, Any]) -> None:
        best = "none" if facts["best_loss"] is None else f"{facts['best_loss']:.4f}"
        seconds = time.monotonic() - self._started
        self._print(
            f"generation {facts['generation']:>3} {facts['evaluations']:>6} evaluations  best loss {best}  "
            f"front {facts['front']:>3}  hypervolume {facts['hypervolume']:.4f}  {seconds:.0f} s"
        )

    def _on_stopped(self, facts: Mapping[str, Any]) -> None:
        self._print(f"stopped early: {facts['reason']}")

    def _on_judged(self, facts: Mapping[str, Any]) -> None:
        self._print(f"dense network judged by {facts['by']}: loss {facts['loss']:.4g}")

    def _on_resumed(self, facts: Mapping[str, Any]) -> None:
        best = "" if facts["best"] is None else f", best loss {facts['best']['loss']:.4f}"
        self._print(f"goes on after {facts['evaluations']} evaluations{best}")

    def _on_asked(self, facts: Mapping[str, Any]) -> None:
        if facts["cached"]:
            self._print(f"{facts['cached']} of generation {facts['generation'] + 1} were evaluated before, and stay")

    def _on_interrupted(self, facts: Mapping[str, Any]) -> None:
        self._print(f"stopped; continue with: {facts['how']}")

    def _on_control(self, facts: Mapping[str, Any]) -> None:
        self._print(f"control {facts['name']}")

    def _on_warning(self, facts: Mapping[str, Any]) -> None:
        self._print(f"warning: {facts['text']}")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
