"""The verbs for a search that runs elsewhere: status, submit, job."""

import argparse
import json
import secrets
from pathlib import Path
from typing import Any

from blendsearch.cli.remote import make_api_client
from blendsearch.cli.server import add_server_option


def show_status(arguments: argparse.Namespace) -> None:
    from blendsearch.results.status import read_status
    from blendsearch.runs.origin import Origin
    from blendsearch.runs.run import open_run

    if (server := make_api_client(arguments)) is not None:
        found = server.get("runs", arguments.run)
    else:
        found = read_status(open_run(arguments.runs, arguments.run)).to_dict()
    if arguments.json:
        print(json.dumps(found))
        return
    failed = f", {found['failed']} failed" if found["failed"] else ""
    print(f"{found['run']}: {found['state']}, {found['evaluations']} of {found['asked']} evaluations{failed}")
    if found["per_minute"] is not None:
        pace = f"{found['per_minute']:.1f} a minute, {found['seconds_each']:.3g} s each"
        if found["utilisation"] is not None:
            pace += f", {found['utilisation']:.0%} of the time of {found['workers']} workers"
        left = found["seconds_left"]
        print(pace + (f"; {_format_duration(left)} left at this pace" if left else ""))
    if found["retried"]:
        print(f"{found['retried']} attempts were lost or failed, and made again; see its logs")
    if found["state"] == "running" and (found["quiet"] or 0) > 5 * (found["seconds_each"] or 60) + 60:
        print(f"nothing has come back for {_format_duration(found['quiet'])}")
    if (best := found["best"]) is not None:
        accuracy = "" if best["val_accuracy"] is None else f"accuracy {best['val_accuracy']:.2%}, "
        print(
            f"best so far: network {best['id']} ({Origin.parse(best['origin']).label}), validation loss "
            f"{best['val_loss']:.4f}, {accuracy}{best['macs_ratio']:.2%} of MACs"
        )


def submit(arguments: argparse.Namespace) -> None:
    from blendsearch.engine.ray_jobs import submit
    from blendsearch.errors import ConfigError
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.run import NAME

    config = load_config(arguments.config, arguments.set)
    stem = config.model.factory.rpartition(":")[2].lower().replace("_", "-")
    name = arguments.name or f"{stem}-{secrets.token_hex(3)}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"a run cannot be called {name!r}: expected lower-case letters, digits and dashes")
    job = submit(arguments.address, config, Path.cwd(), name, arguments.cluster_runs)
    if arguments.json:
        print(json.dumps({"job": job, "run": name}))
        return
    print(f"job {job} searches as run {name}; see: blendsearch job logs {job} --address {arguments.address}")


def manage_job(arguments: argparse.Namespace) -> None:
    from blendsearch.engine import ray_jobs as jobs

    if arguments.action == "status":
        said = jobs.get_status(arguments.address, arguments.job)
        state, _, text = said.partition(": ")
        print(json.dumps({"job": arguments.job, "status": state, "says": text}) if arguments.json else said)
    elif arguments.action == "logs":
        said = jobs.get_logs(arguments.address, arguments.job)
        print(json.dumps({"job": arguments.job, "logs": said}) + "\n" if arguments.json else said, end="")
    else:
        going = jobs.stop(arguments.address, arguments.job)
        if arguments.json:
            print(json.dumps({"job": arguments.job, "was_going": going}))
            return
        print("told to stop; submit with the same --name to resume its run" if going else "it was over already")


def _format_duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def add_verbs(add_verb: Any) -> None:
    """Add this file's verbs by `verb`, which makes a parser of a name, a function and a help text."""
    shown = add_verb("status", show_status, "show how a search is going")
    shown.add_argument("run", metavar="RUN")
    shown.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add_server_option(shown)

    handed = add_verb("submit", submit, "hand a search to a Ray cluster; with the --name of a run there, resume it")
    handed.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a YAML file")
    handed.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the config"
    )
    handed.add_argument("--name", metavar="ID", help="the run's id (default: after the model)")
    handed.add_argument(
        "--cluster-runs", default="/runs", metavar="DIR", help="where runs are on the cluster's head (default: /runs)"
    )
    handed.add_argument("--json", action="store_true", help="one JSON object instead of text")
    asked = add_verb("job", manage_job, "ask for a submitted job, read what it says, or stop it")
    asked.add_argument("action", choices=("status", "logs", "stop"))
    asked.add_argument("job", metavar="ID")
    asked.add_argument("--json", action="store_true", help="one JSON object instead of text")
    for parser in (handed, asked):
        parser.add_argument("--address", required=True, metavar="URL", help="the head's dashboard, http://HEAD:8265")
