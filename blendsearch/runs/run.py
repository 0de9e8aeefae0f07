"""A run directory: made whole or not at all, opened only when it can be understood, and worked on by one process."""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.config.loading import dump_config, parse_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.records import InheritedEvaluation
from blendsearch.runs.store import Store
from blendsearch.runs.worker_logs import WorkerLogs

FORMAT = 1
"""Version of the directory's layout. A directory with a larger number was written by a newer blendsearch."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Run:
    """One run directory.

    ``run.json`` holds format, config and provenance; ``dense.safetensors`` the dense weights; ``scores.safetensors``
    the score table; ``run.sqlite`` the evaluations; ``checkpoints/`` the state of evolution; ``finals/`` the weights of
    networks that were fine-tuned in the end; ``logs/`` what every worker did.
    """

    path: Path
    config: Config
    provenance: dict[str, Any]
    structure: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        return (self.path / "finished.json").exists()

    @property
    def logs(self) -> WorkerLogs:
        return WorkerLogs(self.path / "logs")

    def open_store(self, *, read_only: bool = False) -> Store:
        """Open ``run.sqlite``: ``with run.open_store() as store``."""
        return Store(self.path / "run.sqlite", read_only=read_only)

    def read_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays in ``NAME.safetensors``. Raises RunError when the file is missing or damaged."""
        return read_arrays(self.path / f"{name}.safetensors")

    def save_weights(self, digest: str, repeat: int | None, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the weights of a fine-tuned network, or, without `repeat`, of one as it was judged.

        Raises RunError when the disk is full.
        """
        path = self.path / "finals" / _make_weights_name(digest, repeat)
        draft = path.with_suffix(".draft")
        try:
            path.parent.mkdir(exist_ok=True)
            save_arrays(arrays, draft)
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise RunError(f"{path} could not be written ({error.strerror}): free some space and resume") from error

    def has_weights(self, digest: str, repeat: int | None) -> bool:
        """Whether `keep_weights` wrote these."""
        return (self.path / "finals" / _make_weights_name(digest, repeat)).exists()

    def read_weights(self, digest: str, repeat: int | None) -> dict[str, NDArray[Any]]:
        """The weights that `keep_weights` wrote. Raises RunError when they are missing or damaged."""
        return read_arrays(self.path / "finals" / _make_weights_name(digest, repeat))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the run as finished, with facts such as the time it took."""
        write_atomically(self.path / "finished.json", json.dumps(dict(facts), indent=1))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other process works on this run. Raises RunError when one does, or it is read-only."""
        try:
            file = (self.path / "lock").open("w", encoding="ascii")
        except OSError as error:
            raise RunError(
                f"run {self.name!r} cannot be written to ({error.strerror}): it can be looked at, and exported"
            ) from error
        with file:
            for patience in range(5, -1, -1):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if not patience:
                        raise RunError(
                            f"run {self.name!r} is being searched by another process: wait for it, or stop it"
                        ) from error
                    time.sleep(0.1)  # somebody may only be looking whether it is locked
            yield

    @property
    def running(self) -> bool:
        """Whether a process works on this run now; on a network file system, as far as its locks reach."""
        try:
            with open(self.path / "lock", encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def write_engine_facts(self, facts: Mapping[str, Any]) -> None:
        """Write down where evaluations run from now on, for whoever asks how the search is going."""
        write_atomically(self.path / "engine.json", json.dumps(dict(facts), indent=1))

    def read_engine_facts(self) -> dict[str, Any]:
        """What `note_engine` wrote last; empty where it never did."""
        try:
            facts: dict[str, Any] = json.loads((self.path / "engine.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts


def check_name(folder: Path, name: str) -> None:
    """Raise RunError unless `name` may become a new run in `folder`."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"a run cannot be called {name!r}: expected 1 to 64 lower-case letters, digits and dashes, no dash first"
        )
    _check_folder(folder)
    if (folder / name).exists():
        raise RunError(f"a run called {name!r} is already in {folder}: choose another --name, or resume it")


def find_free_name(folder: Path, stem: str, reserved: Collection[str] = ()) -> str:
    """The first of stem-1, stem-2, ... that no run in `folder` has, and that is not `promised` to one."""
    stem = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:50] or "run"
    taken = {*reserved, *((path.name for path in folder.iterdir()) if folder.is_dir() else ())}
    return next(name for number in range(1, 10**9) if (name := f"{stem}-{number}") not in taken)


def create_run(
    folder: Path,
    name: str,
    config: Config,
    provenance: dict[str, Any],
    structure: dict[str, Any],
    arrays: Mapping[str, Mapping[str, NDArray[Any]]],
    inherited: Sequence[InheritedEvaluation] = (),
) -> Run:
    """A new run directory with these files; on any failure nothing is left of it.

    `arrays` maps a file's stem to its arrays; `inherited` is what a fork takes over. Raises RunError when the name is
    not allowed or taken, or the disk full.
    """
    check_name(folder, name)
    draft = folder / f".{name}.draft-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        for stem, named in arrays.items():
            save_arrays(named, draft / f"{stem}.safetensors")
        facts = {
            "format": FORMAT,
            "config": config.model_dump(mode="json"),
            "provenance": provenance,
            "structure": structure,
        }
        write_atomically(draft / "config.yaml", dump_config(config))
        write_atomically(draft / "run.json", json.dumps(facts, indent=1))
        with Store(draft / "run.sqlite") as store:
            store.add_inherited(inherited)
        os.rename(draft, folder / name)
    except OSError as error:
        raise RunError(f"run {name!r} could not be made in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Run(folder / name, config, provenance, structure)


def open_run(folder: Path, name: str) -> Run:
    """An existing run. Raises RunError when it is not there, not a run, damaged, or from a newer blendsearch."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"no run is called {name!r}: expected the id of a run in {folder}, as `blendsearch runs` shows them"
        )
    path = folder / name
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        known = ", ".join(list_runs(folder)[:8]) or "none"
        raise RunError(f"no run {name!r} in {folder}: runs there are {known}; is --runs right?") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'run.json'} cannot be read: {error}") from error
    written = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(written, int):
        raise RunError(f"{path / 'run.json'} is not that of a run: it states no format")
    if written > FORMAT:
        raise RunError(
            f"run {name!r} was written by a newer blendsearch (format {written}, this one reads up to {FORMAT}): "
            "update blendsearch"
        )
    return Run(path, parse_config(facts["config"], str(path)), facts["provenance"], facts["structure"])


def list_runs(folder: Path) -> list[str]:
    """The ids of the runs in `folder`, in alphabetical order. Raises RunError when that is a file."""
    _check_folder(folder)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / "run.json").exists())


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: runs are in a folder, which --runs names")


def _make_weights_name(digest: str, repeat: int | None) -> str:
    return f"{digest[:16]}-{'judged' if repeat is None else repeat}.safetensors"


def save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save_file

    # not ascontiguousarray, which gives a scalar a dimension
    save_file({key: np.asarray(value, order="C") for key, value in arrays.items()}, path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. Raises RunError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
