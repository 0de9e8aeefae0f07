"""The verbs for searches that run elsewhere: status, submit, job."""

import argparse
import json
import secrets
from pathlib import Path


def show_status(arguments: argparse.Namespace) -> None:
    from blendsearch.results.status import read_status
    from blendsearch.runs.run import open_run

    found = read_status(open_run(arguments.runs, arguments.run))
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
        print(f"{found['retried']} attempts were lost or failed, and were retried; see the logs of the run")
    if found["state"] == "running" and (found["quiet"] or 0) > 5 * (found["seconds_each"] or 60) + 60:
        print(f"no evaluation completed for {_format_duration(found['quiet'])}")
    if (best := found["best"]) is not None:
        accuracy = "" if best["val_accuracy"] is None else f"accuracy {best['val_accuracy']:.2%}, "
        print(
            f"best so far: network {best['id']} ({best['origin'].split(' = ')[0]}), validation loss "
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
    print(f"job {job} searches as run {name}; follow it with: blendsearch job logs {job} --address {arguments.address}")


def manage_job(arguments: argparse.Namespace) -> None:
    from blendsearch.engine import ray_jobs as jobs

    if arguments.action == "status":
        status = jobs.get_status(arguments.address, arguments.job)
        state, _, text = status.partition(": ")
        print(json.dumps({"job": arguments.job, "status": state, "says": text}) if arguments.json else status)
    elif arguments.action == "logs":
        logs = jobs.get_logs(arguments.address, arguments.job)
        print(json.dumps({"job": arguments.job, "logs": logs}) + "\n" if arguments.json else logs, end="")
    else:
        was_running = jobs.stop(arguments.address, arguments.job)
        if arguments.json:
            print(json.dumps({"job": arguments.job, "was_going": was_running}))
            return
        print("stopping; submit with the same --name to resume its run" if was_running else "it had already ended")


def _format_duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
