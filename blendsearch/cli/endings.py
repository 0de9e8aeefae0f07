"""Endings of a command: an exit code and at most one line on standard error."""

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blendsearch.cli.signals import STOPPED
from blendsearch.cli.streams import OutputLost
from blendsearch.errors import BlendsearchError
from blendsearch.runs.default_folder import format_option
from blendsearch.runs.files import BASE_FOLDER

FAILED = 1
"""Exit code for a lack of memory, or for user-defined code that ended the process."""
WRONG_INPUT = 2
READER_GONE = 141
"""Exit code that shells report of a command that wrote to a closed pipe: 128 + SIGPIPE."""


@dataclass(frozen=True)
class Ending:
    """The exit code of a command, and its last line on standard error; empty where none is printed."""

    code: int
    line: str


def describe_ending(error: BaseException, next_step: str, *, stopped: bool = False) -> Ending | None:
    """Describe the ending by `error`; None for an error of blendsearch itself, whose traceback is needed.

    `next_step` is what to do next; empty for a command that only reads. `stopped`: a signal arrived before the error.
    An error of the operating system, as a lack of permission, names its file; the log has its traceback.
    """
    if stopped or isinstance(error, KeyboardInterrupt):
        return Ending(STOPPED, _join("stopped", next_step))
    if isinstance(error, BlendsearchError):
        return Ending(WRONG_INPUT, " ".join(str(error).split()))
    if isinstance(error, OutputLost):
        return _describe_lost_output(error, next_step)
    if _is_lack_of_memory(error):
        return Ending(FAILED, _join("out of memory: free some, or choose smaller batches", next_step))
    if isinstance(error, OSError) and error.errno is not None:
        logging.getLogger(__name__).debug("the error in full", exc_info=error)
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return Ending(WRONG_INPUT, _join(f"{place}{error.strerror}", next_step))
    if isinstance(error, RecursionError):
        return Ending(FAILED, _join(f"something is nested too deeply{_locate(error)}", next_step))
    if isinstance(error, SystemExit):
        return Ending(FAILED, _join(f"sys.exit({error.code!r}) was called{_locate(error)}", next_step))
    return None


def _describe_lost_output(error: OutputLost, next_step: str) -> Ending:
    if error.reader_is_gone:
        line = _join("stopped: the reader of the output is gone", next_step) if next_step else ""
        return Ending(READER_GONE, line)
    line = f"standard output cannot be written ({error}): free some space, or redirect it to another place"
    return Ending(WRONG_INPUT, _join(line, next_step))


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return True for a lack of memory in Python or torch, on the processor or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _locate(error: BaseException) -> str:
    """Locate the line that raised `error`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def set_next_step(arguments: argparse.Namespace, name: str, verb: str = "resume") -> None:
    """Set the run that a command works on, for the last line of a command that is stopped."""
    arguments.describe_next_step = lambda: describe_next_step(arguments.runs, name, verb)


def get_next_step(arguments: argparse.Namespace | None) -> str:
    """Get what to do after a command that was stopped; empty for one that only reads or has not begun."""
    describe: Callable[[], str] = getattr(arguments, "describe_next_step", str)
    return describe()


def describe_next_step(folder: Path, name: str, verb: str) -> str:
    """Describe how to continue with run `name` in `folder`, or that there is nothing to continue."""
    option = format_option(folder)
    if not (folder / name / "run.json").exists():
        if any((folder / BASE_FOLDER).glob("base-*")):
            return "no run was made; the same command continues the training of the base network"
        return "nothing was stored"
    if verb == "resume" and (folder / name / "finished.json").exists():
        return f"run {name} has finished; show it with: blendsearch front {name}{option}"
    return f"continue with: blendsearch {verb} {name}{option}"
