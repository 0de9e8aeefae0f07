"""An evaluator with planned faults and a log of its evaluations, and the command line with it.

    FAULTS_DIR=DIR python tests/helpers/faulty.py search CONFIG ...

``DIR/plan.json`` maps a cut's digest, or ``*``, to a fault. ``DIR/log`` has a line per start and end of an evaluation.
"""

import copy
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


class Faulty(Evaluator):
    """Faults: slow, long, die, die once, hang, hang once, wait once, raise, nan, memory."""

    def evaluate(self, asked: Request) -> Outcome:
        folder = Path(os.environ["FAULTS_DIR"])
        plan = json.loads((folder / "plan.json").read_text())
        fault = plan.get(asked.digest, plan.get("*", ""))
        work = f"{asked.digest} {asked.fidelity} {asked.split} {asked.seed} {asked.stop:g}"
        first = ("begin", work) not in lines(folder)
        write(folder, "begin", work)
        outcome = self._failing(fault, first, asked)
        write(folder, "end", work)
        return outcome

    def _failing(self, fault: str, first: bool, asked: Request) -> Outcome:
        if fault == "slow":
            time.sleep(0.05)
        if fault == "long":
            time.sleep(0.5)
        if fault == "die" or (fault == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang" or (fault == "hang once" and first):
            time.sleep(3600)
        if fault == "wait once" and first:
            time.sleep(4)
        if fault == "raise":
            raise ValueError("this candidate cannot be evaluated")
        if fault == "memory":
            return self._without_memory(asked)
        if fault == "nan":
            model = copy.deepcopy(self.model)
            for weight in model.parameters():
                weight.data.fill_(torch.nan)
            return Evaluator.evaluate(replace(self, model=model), asked)
        return Evaluator.evaluate(self, asked)

    def _without_memory(self, asked: Request) -> Outcome:
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
        try:
            torch.ones(2**30)  # 4 GiB
            return Evaluator.evaluate(self, asked)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


START_SECONDS = 8
"""Time that `SlowStart` takes twice in each new process."""


class SlowStart(Faulty):
    """Takes `START_SECONDS` to be unpickled; with `evaluate_slowly_first`, also for its first evaluation."""

    def __setstate__(self, state: dict) -> None:
        time.sleep(START_SECONDS)
        self.__dict__.update(state)


processes = []


def evaluate_slowly_first(module: torch.nn.Module) -> dict[str, float]:
    if os.getpid() not in processes:
        processes.append(os.getpid())
        time.sleep(START_SECONDS)
    return {"loss": float(sum(weight.numel() for weight in module.parameters()))}


def write(folder: Path, what: str, work: str) -> None:
    with open(folder / "log", "a") as file:  # one short line at a time: written whole
        file.write(f"{what} {os.getpid()} {work}\n")


def lines(folder: Path) -> list[tuple[str, str]]:
    """Return the events and their evaluations, in order."""
    if not (folder / "log").exists():
        return []
    words = [line.split(" ", 2) for line in (folder / "log").read_text().splitlines()]
    return [(what, work) for what, _, work in words]


def counted(folder: Path, what: str) -> Counter[str]:
    """Count how often each evaluation began, or ended."""
    return Counter(work for event, work in lines(folder) if event == what)


def repeated(folder: Path) -> int:
    """Count the repetitions of evaluations that ended more than once."""
    return sum(count - 1 for count in counted(folder, "end").values())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in a shell's background
    torch.set_num_threads(1)
    from blendsearch.cli.main import main
    from blendsearch.pipeline.problem import assembly

    assembly.Evaluator = Faulty  # type: ignore[misc]
    main(sys.argv[1:])
