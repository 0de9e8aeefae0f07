"""The command line: verbs, and how an error ends one."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blendsearch.cli import cluster
from blendsearch.cli import criteria as on_criteria
from blendsearch.cli import results as showing
from blendsearch.cli import search as searching
from blendsearch.cli import server as serving
from blendsearch.cli import show as reading
from blendsearch.errors import BlendsearchError

WRONG_INPUT, INTERRUPTED = 2, searching.INTERRUPTED


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 2 wrong input, 130 interrupted."""
    arguments = make_parser().parse_args(argv)
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # a person's own model and criteria stand beside their config
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without umlauts or plus-minus signs ends no search
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
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """All verbs with their arguments; what the reference in the documentation is made from."""
    parser = argparse.ArgumentParser(
        prog="blendsearch",
        description="Search for really smaller CNNs: blended pruning criteria and widths under an exact budget.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add_verb(name: str, function: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(verb=function)
        added.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)"
        )
        return added

    search = add_verb(
        "search", searching.search, "search for smaller networks; without CONFIG, the built-in digits example"
    )
    search.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file")
    search.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    search.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address (default: engine.ray)")
    search.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    search.add_argument("--or-resume", action="store_true", help="continue the run --name where it is there already")
    search.add_argument("--controls", action="store_true", help="compare with controls afterwards")
    search.add_argument("--json", action="store_true", help="one JSON object per event instead of text")
    serving.add_server_option(search)

    resume = add_verb("resume", searching.resume, "continue a search that stopped, to the result it would have had")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="more search.evaluations, engine, promote or finals",
    )
    resume.add_argument(
        "--accept",
        metavar="KIND,...",
        help="go on although code, factory, versions or device are not what the run was begun with",
    )
    resume.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address")
    resume.add_argument("--json", action="store_true", help="one JSON object per event instead of text")
    serving.add_server_option(resume)

    fork = add_verb(
        "fork", searching.fork, "search anew from what a run has found, with another budget or other settings"
    )
    fork.add_argument("run", metavar="RUN")
    fork.add_argument("--name", metavar="ID", help="the new run's id (default: after RUN)")
    fork.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change seed, allocation, or a field of search, budget, fitness, promote, finals or engine",
    )
    fork.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address")
    fork.add_argument("--json", action="store_true", help="one JSON object per event instead of text")
    serving.add_server_option(fork)

    compare = add_verb("compare", searching.compare, "search with controls at equal cost: was it worth it?")
    compare.add_argument("run", metavar="RUN")
    compare.add_argument("--seeds", type=_parse_count, default=3, metavar="N", help="on how many seeds (default: 3)")
    compare.add_argument(
        "--controls", metavar="A,B", help="which controls (default: all; none shows what is there already)"
    )
    compare.add_argument("--ray", metavar="WHERE", help="off, local, auto, or a cluster's address")
    compare.add_argument("--json", action="store_true", help="one JSON object instead of text")

    runs = add_verb("runs", showing.show_runs, "list the runs")
    runs.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    serving.add_server_option(runs)

    front = add_verb("front", showing.show_front, "show what a run found")
    front.add_argument("run", metavar="RUN")
    front.add_argument(
        "--plot",
        nargs="?",
        type=Path,
        const=Path("front.png"),
        metavar="FILE",
        help="draw it too; at one budget, how the search came to its best (default: front.png)",
    )
    front.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    serving.add_server_option(front)

    show = add_verb(
        "show", reading.show_network, "show one network: its channels, its blend, its costs, and where it came from"
    )
    show.add_argument("run", metavar="RUN")
    show.add_argument("what", metavar="best|knee|ID", help="which network, by id as `front` shows them")
    show.add_argument("--json", action="store_true", help="one JSON object instead of text")

    serving.add_server_option(show)

    report = add_verb("report", reading.report, "write what a run found as one HTML file that needs no network")
    report.add_argument("run", metavar="RUN")
    report.add_argument("--to", type=Path, metavar="FILE", help="the page (default: RUN.html)")
    report.add_argument("--json", action="store_true", help="one JSON object instead of text")

    export = add_verb("export", showing.export, "write a found network as safetensors and JSON, with a model card")
    export.add_argument("run", metavar="RUN")
    export.add_argument("--pick", default="best", metavar="best|knee|ID", help="which network (default: best)")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    export.add_argument("--pt2", action="store_true", help="also as PyTorch's exported program, checked")
    export.add_argument("--onnx", action="store_true", help="also as ONNX, checked (needs blendsearch[onnx])")
    export.add_argument("--json", action="store_true", help="one JSON object instead of text")

    serving.add_serve_verb(add_verb)
    cluster.add_verbs(add_verb)

    criteria = add_verb("criteria", on_criteria.show_criteria, "list the criteria, or map which of them say the same")
    criteria.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file: the criteria it uses")
    criteria.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    criteria.add_argument("--run", metavar="RUN", help="the criteria of this run, as it scored them")
    criteria.add_argument(
        "--map",
        nargs="?",
        type=Path,
        const=Path("criteria-map.png"),
        metavar="FILE",
        help="score the channels, print the clusters, and draw the correlations (default: criteria-map.png)",
    )
    criteria.add_argument("--json", action="store_true", help="JSON instead of tables")
    return parser


def _parse_count(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, given {text!r}")
    return int(text)


def _print_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Our own warnings as one line; those of libraries are of no use to a person."""
    if category is UserWarning and "blendsearch" in filename:
        print(f"warning: {message}", file=sys.stderr)
