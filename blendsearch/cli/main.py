"""The entry point of the command line: run a verb, and turn its ending into an exit code and at most one line.

Other modules are imported once signals are handled, so that an interrupted import prints no traceback.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from blendsearch.cli.signals import STOPPED, SignalGuard

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 1 out of memory, 2 wrong input, 130 stopped, 141 reader of the output gone.

    Without `argv`, the arguments are those of the process, whose signals stay handled until it ends.
    """
    signals = SignalGuard()
    try:
        code = _run(argv, signals)
    finally:
        if argv is not None:
            signals.restore()
    if code:
        sys.exit(code)


def _run(argv: Sequence[str] | None, signals: SignalGuard) -> int:
    try:
        signals.install()
        from blendsearch.cli.streams import guard_streams

        with guard_streams():
            return _run_verb(argv, signals)
    except KeyboardInterrupt:  # before or after the verb
        signals.end()
        return STOPPED


def _run_verb(argv: Sequence[str] | None, signals: SignalGuard) -> int:
    """Run the verb of `argv`, print the line of its ending, and return its exit code."""
    arguments = None
    try:
        from blendsearch.cli.parser import make_parser

        try:
            arguments = make_parser().parse_args(argv)
        except SystemExit as ended:  # after --help or a line about wrong arguments
            sys.stdout.flush()
            return int(ended.code or 0)
        _call_verb(arguments)
        sys.stdout.flush()
    except BaseException as error:
        signals.end()
        from blendsearch.cli.endings import describe_ending, get_next_step

        ending = describe_ending(error, get_next_step(arguments), stopped=signals.received)
        if ending is None:
            raise
        if ending.line:
            print(f"blendsearch: {ending.line}", file=sys.stderr)
        return ending.code
    signals.end()
    return 0


def _call_verb(arguments: "argparse.Namespace") -> None:
    import warnings

    from blendsearch.cli.verbosity import set_up_logging

    set_up_logging(getattr(arguments, "verbose", 0))
    _use_working_folder()
    _resolve_run(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        arguments.verb(arguments)


def _resolve_run(arguments: "argparse.Namespace") -> None:
    """Replace the run name ``latest`` by the id of the run that was searched last."""
    if getattr(arguments, "run", None) == "latest":
        from blendsearch.runs.latest import resolve_name

        arguments.run = resolve_name(arguments.runs, arguments.run)


def _use_working_folder() -> None:
    """Make user-defined models and criteria beside the config importable."""
    import os

    from blendsearch.errors import ConfigError
    from blendsearch.user_code import set_module_folder

    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the current folder was deleted: change to another one first") from error
    set_module_folder(folder)


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print warnings of blendsearch as one line, and drop those of libraries."""
    if category is UserWarning and "blendsearch" in filename:
        print(f"warning: {message}", file=sys.stderr)
