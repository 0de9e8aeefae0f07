"""The contents of a server: a folder of runs, the processes that search there, and a folder of data for new runs."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blendsearch.errors import BlendsearchError, RunError
from blendsearch.results.listing import DAMAGE, RunLister
from blendsearch.results.network import describe_network
from blendsearch.results.records import RunListing
from blendsearch.results.summary import select_network
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.deletion import delete_run
from blendsearch.runs.run import NAME, Run, check_name, find_free_name, list_runs, open_run
from blendsearch.runs.run_labels import Labels, change_labels, read_labels
from blendsearch.service.config_policy import check_fork_overrides, check_resume_overrides, parse_remote_config
from blendsearch.service.processes import ProcessManager


class NotFoundError(RunError):
    """There is no such run, or no such network in it."""


@dataclass(frozen=True)
class Workspace:
    """A folder of runs and a folder of data that configs from the network may name (None: none)."""

    runs: Path
    data: Path | None = None
    processes: ProcessManager = field(init=False)
    lister: RunLister = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lister", RunLister(self.runs))
        object.__setattr__(self, "processes", ProcessManager(self.runs))

    def has_run(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self.runs / name / "run.json").exists()

    def open(self, name: str) -> Run:
        """Open a run. Raises NotFoundError when there is none, RunError for one not begun or unreadable."""
        if not self.has_run(name):
            if NAME.fullmatch(name) and self.processes.was_started(name):
                raise RunError(f"run {name!r} {self._explain_absence(name)}")
            raise NotFoundError(f"no run is called {name!r}")
        return open_run(self.runs, name)

    def _explain_absence(self, name: str) -> str:
        said = self.processes.read_output(name)
        if self.processes.is_running(name):
            return f"has not started yet: {said[-1] if said else 'its process has no output yet'}"
        if self.processes.was_stopped(name):
            return "was stopped before it began: start it again"
        return f"did not start: {said[-1] if said else 'its process ended without a reason'}"

    def get_network(self, name: str, selector: str) -> dict[str, Any]:
        """Describe a network of a run. Raises NotFoundError when there is none."""
        run = self.open(name)
        try:
            return describe_network(run, selector).to_dict()
        except RunError as error:
            raise NotFoundError(str(error)) from error

    def summarize_runs(self) -> list[dict[str, Any]]:
        """List the runs, also those that have no directory yet, and those that failed to create one.

        The reason of a failure is the last line of its process.
        """
        self.processes.reap()
        rows = self.lister.list_runs()
        known, started = {row.run for row in rows}, self.processes.list_names()
        rows = [replace(row, state=self.get_state(row.run, row.state)) if row.run in started else row for row in rows]
        waiting = [name for name in started if name not in known and NAME.fullmatch(name)]
        rows += [RunListing(run=name, state=self._describe_waiting(name)) for name in waiting]
        return [row.to_dict() for row in sorted(rows, key=lambda row: row.run)]

    def get_state(self, name: str, state: str | None) -> str:
        """Return the state of a run together with that of its process; `state` is None without a run directory.

        A process needs seconds before the search, which is ``starting``, and after it, or after a request to stop.
        """
        lives, stopped = self.processes.is_running(name), self.processes.was_stopped(name)
        if state is None:
            return ("stopping" if stopped else "starting") if lives else "stopped" if stopped else "failed"
        if not lives or state not in ("running", "stopped", "finished"):
            return state
        if stopped and state != "finished":
            return "stopping"
        if state == "running" or not self._has_searched(name):
            return "running" if state == "running" else "starting"
        return "finished" if state == "finished" else "stopping"

    def _has_searched(self, name: str) -> bool:
        """Return whether the last process of the run has begun its search."""
        try:
            started = open_run(self.runs, name).read_engine_facts().get("started", 0.0)
        except (BlendsearchError, *DAMAGE):
            return False
        return started >= self.processes.get_start_time(name)

    def _describe_waiting(self, name: str) -> str:
        state, said = self.get_state(name, None), self.processes.read_output(name)
        if state != "failed":
            return state
        reason = said[-1].removeprefix("blendsearch: ") if said else "its process ended without a reason"
        return f"failed: {textwrap.shorten(reason, 160, placeholder=' …')}"

    def start(self, text: str, name: str | None, overrides: list[str]) -> str:
        """Start a search from a config that was received over the network, and return its name.

        Raises ConfigError for a config that is not allowed, RunError for a name that is taken.
        """
        config = parse_remote_config(text, overrides, self.data)
        if name is None:
            name = find_free_name(self.runs, config.model.factory.rpartition(":")[2], self.processes.list_names())
        check_name(self.runs, name)
        words = ["search", "CONFIG", "--runs", str(self.runs), "--name", name]
        self.processes.start(name, words, dump_config(config))
        return name

    def resume(self, name: str, overrides: list[str]) -> None:
        """Resume the search of `name`. Raises RunError when it is running or finished, ConfigError for an override."""
        check_resume_overrides(overrides)
        run = self.open(name)
        if run.running:
            raise RunError(f"run {name!r} is being searched already: wait for it, or stop it")
        if run.finished and not overrides:
            raise RunError(f"run {name!r} has finished: set more search.evaluations to resume it")
        changes = [word for override in overrides for word in ("--set", override)]
        self.processes.start(name, ["resume", name, "--runs", str(self.runs), *changes])

    def fork(self, name: str, new_name: str | None, overrides: list[str]) -> str:
        """Start a search from the results of run `name`, as run `new_name`, and return its name.

        Errors that its process finds in the overrides are the reason why the new run fails. Raises NotFoundError,
        ConfigError for an override, RunError for a name that is taken.
        """
        check_fork_overrides(overrides)
        self.open(name)
        new_name = new_name or find_free_name(self.runs, f"{name}-fork", self.processes.list_names())
        check_name(self.runs, new_name)
        changes = [word for override in overrides for word in ("--set", override)]
        self.processes.start(new_name, ["fork", name, "--runs", str(self.runs), "--name", new_name, *changes])
        return new_name

    def label(self, name: str, tags: Sequence[str] | None, archived: bool | None) -> Labels:
        """Replace the tags of run `name`, archive it or bring it back; None changes nothing.

        Raises NotFoundError, ConfigError for a tag that is not allowed, RunError when the labels cannot be written.
        """
        path = self._find(name)
        known = read_labels(path).tags
        return change_labels(path, add=tags or (), remove=() if tags is None else known, archived=archived)

    def delete(self, name: str) -> None:
        """Delete run `name` with the output and exports of its processes.

        Raises NotFoundError, RunError while a process works on it.
        """
        children = [name, *(other for other in self.processes.list_names() if other.startswith(f"{name}.export-"))]
        if any(map(self.processes.is_running, children)):
            raise RunError(f"a process works on run {name!r}: wait for it, or stop it")
        if name in list_runs(self.runs):
            delete_run(self.runs / name)
        elif not NAME.fullmatch(name) or not self.processes.was_started(name):
            raise NotFoundError(f"no run is called {name!r}")
        for child in children:
            shutil.rmtree(self.processes.get_folder(child), ignore_errors=True)

    def _find(self, name: str) -> Path:
        if name not in list_runs(self.runs):
            raise NotFoundError(f"no run is called {name!r}")
        return self.runs / name

    def stop(self, name: str) -> bool:
        """Stop the search of `name` so that it can be resumed; returns whether it has stopped."""
        return self.processes.stop(name)

    def export(self, name: str, selector: str) -> int:
        """Start to export the network `selector`; returns its id. Raises NotFoundError when there is none."""
        run = self.open(name)
        try:
            network = select_network(run, selector).id
        except RunError as error:
            raise NotFoundError(str(error)) from error
        if self.get_export_status(name, network)["state"] in ("missing", "failed"):
            to = self.get_export_folder(name, network)
            shutil.rmtree(to, ignore_errors=True)  # left by a process that was killed
            words = ["export", name, str(network), "--runs", str(self.runs), "--out", str(to), "--json"]
            self.processes.start(_get_export_name(name, network), words)
        return network

    def get_export_folder(self, name: str, network: int) -> Path:
        """Return the folder with the files of an export, once it is done."""
        return self.processes.get_folder(_get_export_name(name, network)) / "network"

    def get_export_status(self, name: str, network: int) -> dict[str, Any]:
        """Describe an export: `state` is missing, going, done or failed; `said` has the last lines of its process."""
        child = _get_export_name(name, network)
        said = self.processes.read_output(child)
        if self.processes.is_running(child):
            state = "going"
        elif not said:
            state = "missing"
        else:
            # its last line is a JSON object when all was written, loaded back and evaluated again
            state = "done" if said[-1].startswith("{") else "failed"
        return {"network": network, "state": state, "said": said}


def _get_export_name(name: str, network: int) -> str:
    return f"{name}.export-{network}"
