"""The argument parser: one function per verb. The command-line reference of the documentation is made from it."""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from blendsearch.cli.argument_types import parse_count, parse_factors, parse_port, parse_share
from blendsearch.cli.cluster import manage_job, show_status, submit
from blendsearch.cli.criteria import show_criteria
from blendsearch.cli.examples import EXAMPLES, FIRST_STEPS
from blendsearch.cli.help import VerbParser, add_hidden_alias, add_verb_group
from blendsearch.cli.housekeeping import delete, print_completion, print_schema, tag
from blendsearch.cli.init import init
from blendsearch.cli.inspect import inspect
from blendsearch.cli.probe_verb import probe
from blendsearch.cli.results import export, show_front, show_runs
from blendsearch.cli.search import compare, fork, resume, search
from blendsearch.cli.server import DEFAULT_PORT, serve
from blendsearch.cli.show import report, show_network
from blendsearch.runs.default_folder import VARIABLE, get_default_folder
from blendsearch.version import __version__

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[VerbParser]

EVENT_LINES = "one JSON object per event instead of text"
ONE_OBJECT = "one JSON object instead of text"
RAY_CHOICES = "off, local, auto, or a cluster's address"


def make_parser() -> VerbParser:
    """Make the parser of all verbs; `verb` of the parsed arguments is the function to call with them."""
    parser = VerbParser(
        prog="blendsearch",
        description="Search for smaller CNNs: blended pruning criteria and layer widths within an exact budget.",
        examples=FIRST_STEPS,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the versions of blendsearch and Python")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for title, adders in VERBS.items():
        add_verb_group(parser, verbs, title, adders)
    return parser


class ShowVersion(argparse.Action):
    """Prints the versions and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        print(f"blendsearch {__version__}, Python {platform.python_version()}")
        parser.exit()


def _add_init(verbs: "Verbs") -> None:
    help = "write a commented config, also for a checkpoint and a folder of data"
    parser = _add_verb(verbs, "init", init, help)
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help="weights: .safetensors, .pt")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with train and test, or with .npz files")
    parser.add_argument("--model", metavar="FACTORY", help="the network (default: found by the weights of CHECKPOINT)")
    parser.add_argument("--budget", default="50%", metavar="SHARE", help="the budget of MACs (default: 50%%)")
    parser.add_argument("--example", choices=("clutter", "digits"), help="a copy of this built-in example instead")
    _add_out(parser, "FILE", "the config (default: config.yaml)")
    _add_json(parser, ONE_OBJECT)


def _add_delete(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "delete", delete, "delete runs with all their results")
    parser.add_argument("names", nargs="+", metavar="RUN", help="the runs, by id, or latest")
    parser.add_argument("--yes", action="store_true", help="without asking")
    _add_json(parser, ONE_OBJECT)


def _add_tag(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "tag", tag, "tag a run, or archive it: lists hide an archived run")
    _add_run(parser)
    parser.add_argument("tags", nargs="*", metavar="TAG", help="the tags to add")
    parser.add_argument("--remove", action="append", default=[], metavar="TAG", help="remove a tag")
    parser.add_argument("--archive", dest="archived", action="store_const", const=True, help="hide the run in lists")
    parser.add_argument("--unarchive", dest="archived", action="store_const", const=False, help="show it in lists")
    _add_json(parser, ONE_OBJECT)


def _add_schema(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "schema", print_schema, "print the JSON Schema of configs, for editors")
    _add_out(parser, "FILE", "write it to a file")


def _add_completion(verbs: "Verbs") -> None:
    help = "print the script by which a shell completes verbs, options and runs"
    parser = _add_verb(verbs, "completion", print_completion, help)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell: bash, zsh or fish")
    parser.set_defaults(make_parser=make_parser)


def _add_verb(verbs: "Verbs", name: str, function: Callable[[argparse.Namespace], None], help: str) -> VerbParser:
    parser = verbs.add_parser(name, help=help, description=help, examples=EXAMPLES[name])
    parser.set_defaults(verb=function)
    default = get_default_folder()
    help = f"where runs are (default: runs, or the environment variable {VARIABLE})"
    parser.place.add_argument("--runs", type=Path, default=default, metavar="DIR", help=help)
    parser.output.add_argument(
        "-v", "--verbose", action="count", default=0, help="log to standard error; -vv logs more"
    )
    return parser


def _add_search(verbs: "Verbs") -> None:
    help = "search for smaller networks; without CONFIG, run the built-in digits example"
    parser = _add_verb(verbs, "search", search, help)
    _add_config(parser, "a YAML file, or a built-in example: clutter or digits")
    parser.place.add_argument("--ray", metavar="WHERE", help=f"{RAY_CHOICES} (default: engine.ray)")
    parser.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    parser.add_argument("--or-resume", action="store_true", help="resume the run --name if it exists")
    parser.add_argument("--budget", metavar="SHARE", help="the budget of MACs: 50%%, 0.5, or a range such as 20%%,50%%")
    parser.add_argument("--controls", action="store_true", help="compare with controls afterwards")
    parser.add_argument("--no-finals", action="store_true", help="end without training the best networks")
    _add_quiet(parser)
    parser.set_defaults(trust=True)  # a config is the user's own
    _add_json(parser, EVENT_LINES)


def _add_probe(verbs: "Verbs") -> None:
    help = "find the compression at which recovery begins to fail: train the best known rules at several ones"
    parser = _add_verb(verbs, "probe", probe, help)
    _add_config(parser, "a YAML file, or a built-in example: clutter or digits, the default")
    parser.add_argument(
        "--factors",
        type=parse_factors,
        default=(2.0, 3.0, 4.0, 6.0, 8.0, 12.0),
        metavar="F,F,...",
        help="dense cost over budgeted cost (default: 2,3,4,6,8,12)",
    )
    parser.add_argument("--rules", type=parse_count, default=2, metavar="N", help="rules trained at each (default: 2)")
    parser.add_argument(
        "--share",
        type=parse_share,
        default=0.125,
        metavar="S",
        help="epochs of each training, as a share of finals.tuning.epochs (default: 0.125, at least 1 epoch)",
    )
    parser.place.add_argument("--ray", metavar="WHERE", help=f"{RAY_CHOICES} (default: engine.ray)")
    parser.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    _add_quiet(parser)
    parser.set_defaults(trust=True)  # a config is the user's own
    _add_json(parser, EVENT_LINES)


def _add_resume(verbs: "Verbs") -> None:
    help = "resume a search that stopped; its result is that of an uninterrupted search"
    parser = _add_verb(verbs, "resume", resume, help)
    _add_run(parser)
    _add_set(parser, "more search.evaluations, engine, promote or finals")
    parser.add_argument(
        "--accept",
        metavar="KIND,...",
        help="resume although code, factory, versions or device have changed since the run started",
    )
    parser.place.add_argument("--ray", metavar="WHERE", help=RAY_CHOICES)
    _add_trust(parser)
    _add_quiet(parser)
    _add_json(parser, EVENT_LINES)


def _add_fork(verbs: "Verbs") -> None:
    help = "start a new search from the results of a run, with another budget or other settings"
    parser = _add_verb(verbs, "fork", fork, help)
    _add_run(parser)
    parser.add_argument("--name", metavar="ID", help="the new run's id (default: after RUN)")
    _add_set(parser, "change seed, allocation, or a field of search, budget, fitness, promote, finals or engine")
    parser.place.add_argument("--ray", metavar="WHERE", help=RAY_CHOICES)
    _add_trust(parser)
    _add_quiet(parser)
    _add_json(parser, EVENT_LINES)


def _add_compare(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "compare", compare, "search with control methods at equal cost, and compare the results")
    _add_run(parser)
    parser.add_argument("--seeds", type=parse_count, default=3, metavar="N", help="number of seeds (default: 3)")
    parser.add_argument(
        "--controls", metavar="A,B", help="which controls (default: all; none prints the stored comparison)"
    )
    parser.place.add_argument("--ray", metavar="WHERE", help=RAY_CHOICES)
    _add_trust(parser)
    _add_quiet(parser)
    _add_json(parser, EVENT_LINES)


def _add_runs(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "runs", show_runs, "list the runs")
    parser.add_argument("--archived", action="store_true", help="also archived runs, which JSON always lists")
    _add_json(parser, "a JSON list instead of a table")


def _add_front(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "front", show_front, "show which network of a run to take, and the best of the others")
    _add_run(parser)
    parser.add_argument("--all", action="store_true", help="every network, with losses and fidelities")
    parser.output.add_argument(
        "--out",
        nargs="?",
        type=Path,
        const=Path("front.png"),
        metavar="FILE",
        help="also draw the front; with a single budget, the best network over the search (default: front.png)",
    )
    add_hidden_alias(parser, "--plot", "--out")
    _add_json(parser, "one JSON object instead of a table")


def _add_show(verbs: "Verbs") -> None:
    help = "show one network: its channels, its blend, its costs, and its origin"
    parser = _add_verb(verbs, "show", show_network, help)
    _add_run(parser)
    _add_pick(parser)
    _add_json(parser, ONE_OBJECT)


def _add_report(verbs: "Verbs") -> None:
    help = "write the results of a run as one HTML file that loads nothing from elsewhere"
    parser = _add_verb(verbs, "report", report, help)
    _add_run(parser)
    _add_out(parser, "FILE", "the page (default: RUN.html)")
    _add_json(parser, ONE_OBJECT)


def _add_export(verbs: "Verbs") -> None:
    help = "write a network of a run as safetensors and JSON, with a model card"
    parser = _add_verb(verbs, "export", export, help)
    _add_run(parser)
    _add_pick(parser)
    _add_out(parser, "DIR", "a new or empty folder (default: RUN-PICK)")
    parser.add_argument("--pt2", action="store_true", help="also as PyTorch's exported program, checked")
    parser.add_argument("--onnx", action="store_true", help="also as ONNX, checked (needs blendsearch[onnx])")
    help = "also as ONNX in 8-bit integers, calibrated on training images and evaluated (needs blendsearch[onnx])"
    parser.add_argument("--int8", action="store_true", help=help)
    _add_trust(parser)
    _add_json(parser, ONE_OBJECT)


def _add_serve(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "serve", serve, "show runs live in a browser, and serve their HTTP API")
    parser.place.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1)"
    )
    parser.place.add_argument(
        "--port", type=parse_port, default=DEFAULT_PORT, metavar="N", help=f"0: any free (default: {DEFAULT_PORT})"
    )
    parser.place.add_argument(
        "--data", type=Path, metavar="DIR", help="folder that configs sent to the server may read (default: none)"
    )
    parser.place.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further host name that requests may use"
    )
    _add_json(parser, "one JSON object with url and token instead of text")


def _add_status(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "status", show_status, "show the progress of a search")
    _add_run(parser)
    _add_json(parser, ONE_OBJECT)


def _add_submit(verbs: "Verbs") -> None:
    help = "submit a search to a Ray cluster; with the --name of an existing run, resume it"
    parser = _add_verb(verbs, "submit", submit, help)
    _add_config(parser, "a YAML file")
    parser.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    parser.place.add_argument(
        "--cluster-runs", default="/runs", metavar="DIR", help="where runs are on the cluster's head (default: /runs)"
    )
    _add_json(parser, ONE_OBJECT)
    _add_address(parser)


def _add_job(verbs: "Verbs") -> None:
    parser = _add_verb(verbs, "job", manage_job, "show the status or the logs of a submitted job, or stop it")
    parser.add_argument("action", choices=("status", "logs", "stop"), help="status, logs or stop")
    parser.add_argument("job", metavar="ID", help="the job, by the id that submit printed")
    _add_json(parser, ONE_OBJECT)
    _add_address(parser)


def _add_criteria(verbs: "Verbs") -> None:
    help = "list the criteria, or map their rank correlations"
    parser = _add_verb(verbs, "criteria", show_criteria, help)
    _add_config(parser, "a YAML file: the criteria it uses")
    parser.add_argument("--run", metavar="RUN", help="the criteria of this run, with its stored scores")
    parser.output.add_argument(
        "--map",
        "--out",
        nargs="?",
        type=Path,
        const=Path("criteria-map.png"),
        metavar="FILE",
        help="score the channels, print the clusters, and draw the correlations (default: criteria-map.png)",
    )
    _add_trust(parser)
    _add_json(parser, "JSON instead of tables")


def _add_inspect(verbs: "Verbs") -> None:
    help = "show what a search can cut, reach and take, before it starts; or what a run found out about it"
    parser = _add_verb(verbs, "inspect", inspect, help)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="CONFIG|RUN",
        help="a YAML file or an example; or a run, by its id, or latest",
    )
    _add_set(parser, "change a field of the config")
    _add_json(parser, ONE_OBJECT)


def _add_run(parser: VerbParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run, by its id; latest is the one that was searched last")


def _add_pick(parser: VerbParser) -> None:
    """Add the network as a second word, or as --pick, which the first versions had."""
    help = "which network: best, knee, or an id as `front` shows them (default: best)"
    parser.add_argument("network", nargs="?", metavar="PICK", help=help)
    parser.add_argument("--pick", help=argparse.SUPPRESS)


def _add_quiet(parser: VerbParser) -> None:
    parser.output.add_argument("-q", "--quiet", action="store_true", help="print warnings and the result, no progress")
    help = "also plot the search there: tensorboard:FOLDER, mlflow:EXPERIMENT or wandb:PROJECT"
    parser.output.add_argument("--track", action="append", default=[], metavar="WHERE", help=help)


def _add_out(parser: VerbParser, metavar: str, help: str) -> None:
    parser.output.add_argument("--out", type=Path, metavar=metavar, help=help)
    add_hidden_alias(parser, "--to", "--out")


def _add_config(parser: VerbParser, help: str) -> None:
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=help)
    _add_set(parser, "change a field of the config")


def _add_set(parser: VerbParser, help: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=help)


def _add_trust(parser: VerbParser) -> None:
    help = "import user-defined code that the run names, although it was not made by you at this place on this machine"
    parser.add_argument("--trust", action="store_true", help=help)


def _add_json(parser: VerbParser, help: str) -> None:
    parser.output.add_argument("--json", action="store_true", help=help)


def _add_address(parser: VerbParser) -> None:
    parser.place.add_argument("--address", required=True, metavar="URL", help="the head's dashboard, http://HEAD:8265")


VERBS: dict[str, tuple[Callable[["Verbs"], None], ...]] = {
    "make networks": (_add_init, _add_inspect, _add_criteria, _add_probe, _add_search),
    "look at results": (_add_runs, _add_status, _add_front, _add_show, _add_report, _add_serve),
    "continue from a run": (_add_resume, _add_fork, _add_compare, _add_export),
    "use a cluster": (_add_submit, _add_job),
    "keep house": (_add_tag, _add_delete, _add_schema, _add_completion),
}
"""Functions that add a verb, by the title of their group, in the order of the help."""
