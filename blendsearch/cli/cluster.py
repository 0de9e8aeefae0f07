"""The verbs for a search that runs elsewhere: status, submit, job."""

import argparse
import json
from typing import Any


def status(arguments: argparse.Namespace) -> None:
    from blendsearch.inspect.status import status
    from blendsearch.runs.directory import open_run

    found = status(open_run(arguments.runs, arguments.run))
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
        print(pace + (f"; {_span(left)} left at this pace" if left else ""))
    if (best := found["best"]) is not None:
        print(
            f"best so far: network {best['id']} ({best['origin'].split(' = ')[0]}), validation loss "
            f"{best['val_loss']:.4f}, accuracy {best['val_accuracy']:.2%}, {best['macs_ratio']:.2%} of MACs"
        )


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def add_verbs(verb: Any) -> None:
    """Add this file's verbs by `verb`, which makes a parser of a name, a function and a help text."""
    shown = verb("status", status, "show how a search is going")
    shown.add_argument("run", metavar="RUN")
    shown.add_argument("--json", action="store_true", help="one JSON object instead of text")
