"""The verbs for searches that run elsewhere: status, submit, job."""

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from blendsearch.json_output import format_json

if TYPE_CHECKING:
    from blendsearch.results.metrics import RunMetric
    from blendsearch.results.records import BestNetwork, RunStatus


def show_status(arguments: argparse.Namespace) -> None:
    from blendsearch.results.ladder_summary import format_ladder
    from blendsearch.results.status import read_status
    from blendsearch.results.summary import get_metric
    from blendsearch.runs.run import open_run

    run = open_run(arguments.runs, arguments.run)
    status = read_status(run)
    if arguments.json:
        print(format_json(status.to_dict()))
        return
    failed = f", {status.failed} failed" if status.failed else ""
    print(f"{status.run}: {status.state}, {status.evaluations} of {status.asked} evaluations{failed}")
    if status.per_minute is not None:
        print(_format_pace(status))
    if status.retried:
        print(f"{status.retried} attempts were lost or failed, and were retried; see the logs of the run")
    if status.state == "running" and (status.quiet or 0) > 5 * (status.seconds_each or 60) + 60:
        print(f"no evaluation completed for {_format_duration(status.quiet or 0)}")
    if status.best is not None:
        print(_format_best(status.best, get_metric(run)))
    if (sentence := format_ladder(status.ladder)) is not None:
        print(sentence)


def _format_pace(status: "RunStatus") -> str:
    pace = f"{status.per_minute:.1f} a minute, {status.seconds_each:.3g} s each"
    if status.utilisation is not None:
        pace += f", {status.utilisation:.0%} of the time of {status.workers} workers"
    return pace + (f"; {_format_duration(status.seconds_left)} left at this pace" if status.seconds_left else "")


def _format_best(best: "BestNetwork", metric: "RunMetric") -> str:
    from blendsearch.runs.origin import Origin

    accuracy = "" if best.val_accuracy is None else f"{metric.name} {best.val_accuracy:.2%}, "
    loss = f"{metric.loss_name} {metric.convert_loss(best.val_loss):.4f}"
    return (
        f"best so far: network {best.id} ({Origin.parse(best.origin).label}), validation {loss}, "
        f"{accuracy}{best.macs_ratio:.2%} of MACs"
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
        print(format_json({"job": job, "run": name}))
        return
    print(f"job {job} searches as run {name}; follow it with: blendsearch job logs {job} --address {arguments.address}")


def manage_job(arguments: argparse.Namespace) -> None:
    from blendsearch.engine import ray_jobs as jobs

    if arguments.action == "status":
        status = jobs.get_status(arguments.address, arguments.job)
        state, _, text = status.partition(": ")
        print(format_json({"job": arguments.job, "status": state, "says": text}) if arguments.json else status)
    elif arguments.action == "logs":
        logs = jobs.get_logs(arguments.address, arguments.job)
        print(format_json({"job": arguments.job, "logs": logs}) + "\n" if arguments.json else logs, end="")
    else:
        was_running = jobs.stop(arguments.address, arguments.job)
        if arguments.json:
            print(format_json({"job": arguments.job, "was_going": was_running}))
            return
        print("stopping; submit with the same --name to resume its run" if was_running else "it had already ended")


def _format_duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
