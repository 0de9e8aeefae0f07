"""What one server serves: a folder of runs, the processes that search there, and a folder of data for new ones."""

import shutil
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blendsearch.errors import RunError
from blendsearch.results.listing import listing
from blendsearch.results.network import candidate
from blendsearch.results.summary import pick
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.run import NAME, Run, check_name, free_name, open_run
from blendsearch.service.config_policy import admitted, forkable, resumable
from blendsearch.service.processes import Children


class Missing(RunError):
    """A run, or a network in one, that is not there."""


@dataclass(frozen=True)
class Place:
    """A folder of runs and a folder of data that configs from the network may name (None: none)."""

    runs: Path
    data: Path | None = None
    children: Children = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "children", Children(self.runs))

    def has(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self.runs / name / "run.json").exists()

    def open(self, name: str) -> Run:
        """The run of that name. Raises Missing when there is none, RunError for one not begun or unreadable."""
        if not self.has(name):
            if NAME.fullmatch(name) and (said := self.children.said(name)):
                how = "has not begun yet" if self.children.lives(name) else "never began"
                raise RunError(f"run {name!r} {how}: {said[-1]}")
            raise Missing(f"no run is called {name!r}")
        return open_run(self.runs, name)

    def network(self, name: str, what: str) -> dict[str, Any]:
        """One network of a run, as `inspect.candidate`. Raises Missing when there is none."""
        run = self.open(name)
        try:
            return candidate(run, what)
        except RunError as error:
            raise Missing(str(error)) from error

    def listing(self) -> list[dict[str, Any]]:
        """`inspect.listing`, and those whose directory is not there yet, or never came to be: ``starting``, ``failed``.

        The last lines of what a failed one's process said are its reason.
        """
        self.children.reap()
        rows = listing(self.runs)
        for row in rows:
            if row["state"] in ("stopped", "finished") and self.children.lives(row["run"]):
                row["state"] = "starting"  # it is being resumed
        known = {row["run"] for row in rows}
        for name in self.children.names():
            if name in known or not NAME.fullmatch(name):
                continue
            lives, said = self.children.lives(name), self.children.said(name)
            row = {"run": name, "model": "", "data": "", "budget": "", "evaluations": 0, "asked": 0}
            reason = textwrap.shorten(said[-1] if said else "no reason was given", 160, placeholder=" …")
            state = "starting" if lives else f"failed: {reason}"
            rows.append({**row, "best_val_accuracy": None, "state": state})
        return sorted(rows, key=lambda row: str(row["run"]))

    def start(self, text: str, name: str | None, overrides: list[str]) -> str:
        """Start a search from a config that came over the network, and return its name.

        Raises ConfigError for what is not admitted, RunError for a name that is taken.
        """
        config = admitted(text, overrides, self.data)
        if name is None:
            name = free_name(self.runs, config.model.factory.rpartition(":")[2], self.children.names())
        check_name(self.runs, name)
        words = ["search", "CONFIG", "--runs", str(self.runs), "--name", name]
        self.children.start(name, words, dump_config(config))
        return name

    def resume(self, name: str, overrides: list[str]) -> None:
        """Continue the search of `name`. Raises RunError when it is going on or over, ConfigError for an override."""
        resumable(overrides)
        run = self.open(name)
        if run.running:
            raise RunError(f"run {name!r} is being searched already: wait for it, or stop it")
        if run.finished and not overrides:
            raise RunError(f"run {name!r} has finished: give it more search.evaluations to go on")
        changes = [word for override in overrides for word in ("--set", override)]
        self.children.start(name, ["resume", name, "--runs", str(self.runs), *changes])

    def fork(self, name: str, new: str | None, overrides: list[str]) -> str:
        """Start a search from what run `name` found, as run `new`, and return its name.

        What its process finds wrong with the overrides is told as the reason why the new run failed. Raises Missing,
        ConfigError for an override, RunError for a name that is taken.
        """
        forkable(overrides)
        self.open(name)
        new = new or free_name(self.runs, f"{name}-fork", self.children.names())
        check_name(self.runs, new)
        changes = [word for override in overrides for word in ("--set", override)]
        self.children.start(new, ["fork", name, "--runs", str(self.runs), "--name", new, *changes])
        return new

    def stop(self, name: str) -> bool:
        """Stop the search of `name` so that it can be resumed; whether it has stopped by now."""
        return self.children.stop(name)

    def export(self, name: str, what: str) -> int:
        """Begin to export the network that `what` names; returns its id. Raises RunError when there is none."""
        run = self.open(name)
        try:
            network = pick(run, what).id
        except RunError as error:
            raise Missing(str(error)) from error
        if self.exported(name, network)["state"] in ("missing", "failed"):
            to = self.exports(name, network)
            shutil.rmtree(to, ignore_errors=True)  # what a process that was killed left
            words = ["export", name, "--runs", str(self.runs), "--pick", str(network), "--to", str(to), "--json"]
            self.children.start(_export(name, network), words)
        return network

    def exports(self, name: str, network: int) -> Path:
        """Where the files of an export are, once it is done."""
        return self.children.place(_export(name, network)) / "network"

    def exported(self, name: str, network: int) -> dict[str, Any]:
        """How an export stands: `state` is missing, going, done or failed; `said`, the process's last lines."""
        child = _export(name, network)
        said = self.children.said(child)
        if self.children.lives(child):
            state = "going"
        elif not said:
            state = "missing"
        else:
            # its last line is a JSON object when all was written, loaded back and judged again
            state = "done" if said[-1].startswith("{") else "failed"
        return {"network": network, "state": state, "said": said}


def _export(name: str, network: int) -> str:
    return f"{name}.export-{network}"
