"""The entry point of the command line: run a verb, and turn errors into exit codes."""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from blendsearch.cli.parser import make_parser
from blendsearch.cli.search import INTERRUPTED
from blendsearch.errors import BlendsearchError

WRONG_INPUT = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 2 wrong input, 130 interrupted."""
    arguments = make_parser().parse_args(argv)
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # user-defined models and criteria are beside the config
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale may lack umlauts and plus-minus signs
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            arguments.verb(arguments)
    except BlendsearchError as error:
        print(f"blendsearch: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        print("blendsearch: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


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
