"""A run directory. It is created completely or not at all, and one process works on it at a time."""

import errno
import fcntl
import json
import os
import re
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.config.loading import dump_config, parse_stored_config
from blendsearch.runs.config.method_registry import list_method_names
from blendsearch.runs.config.schema import Config
from blendsearch.runs.drafts import open_draft_folder
from blendsearch.runs.files import (
    apply_umask,
    check_encoding,
    convert_system_error,
    open_regular,
    refuse_links,
    remove_file,
    suggest_remedy,
)
from blendsearch.runs.parsing import read_json
from blendsearch.runs.records import InheritedEvaluation
from blendsearch.runs.run_facts import (
    EngineFacts,
    FinishFacts,
    Provenance,
    StructureFacts,
    check_engine_facts,
    compute_owner,
    decode_provenance,
    decode_structure,
)
from blendsearch.runs.store import Store
from blendsearch.runs.table_layout import write_owner
from blendsearch.runs.worker_logs import WorkerLogs

FORMAT = 1
"""Version of the directory layout. A larger number means that a newer blendsearch wrote the directory."""

ELASTIC_FILE = "elastic"
"""Stem of the file with the weights of the elastic tune."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Run:
    """One run directory.

    ``run.json`` holds format, config and provenance; ``dense.safetensors`` the dense weights; ``elastic.safetensors``
    those after an elastic tune; ``scores.safetensors`` the score table; ``run.sqlite`` the evaluations;
    ``checkpoints/`` the state of the optimizer; ``finals/`` the weights of fine-tuned networks; ``logs/`` the log of
    every worker.
    """

    path: Path
    config: Config
    provenance: Provenance
    structure: StructureFacts

    @property
    def name(self) -> str:
        """The run's id, the name of its directory."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """The folder of the optimizer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """True once `finish` was called."""
        return (self.path / "finished.json").exists()

    @property
    def logs(self) -> WorkerLogs:
        """Writer of the workers' logs."""
        return WorkerLogs(self.path / "logs")

    def open_store(self, *, read_only: bool = False) -> Store:
        """Open ``run.sqlite``: ``with run.open_store() as store``."""
        channels = sum(group["channels"] for group in self.structure["groups"])
        layers = len(self.structure.get("layers", ()))
        owner = compute_owner(self.provenance)
        return Store(self.path / "run.sqlite", read_only=read_only, channels=channels + layers, owner=owner)

    def read_arrays(self, name: str) -> "dict[str, NDArray[Any]]":
        """Read the arrays in ``NAME.safetensors``. Raises RunError when the file is missing or damaged."""
        return read_arrays(self.path / f"{name}.safetensors")

    def has_arrays(self, name: str) -> bool:
        """Check if ``NAME.safetensors`` exists."""
        return (self.path / f"{name}.safetensors").exists()

    def save_arrays(self, name: str, arrays: "Mapping[str, NDArray[Any]]") -> None:
        """Write ``NAME.safetensors``, completely or not at all. Raises RunError when it cannot be written."""
        self._save(arrays, self.path / f"{name}.safetensors")

    def save_weights(self, digest: str, repeat: int | None, arrays: "Mapping[str, NDArray[Any]]") -> None:
        """Write the weights of a fine-tuned network, or, if `repeat` is None, of a network as evaluated.

        `repeat` is the index of the seed. Raises RunError when the file cannot be written.
        """
        self._save(arrays, self.path / "finals" / _make_weights_name(digest, repeat))

    def _save(self, arrays: "Mapping[str, NDArray[Any]]", path: Path) -> None:
        draft = path.with_suffix(".draft")
        try:
            path.parent.mkdir(exist_ok=True)
            save_arrays(arrays, draft)
            os.replace(draft, path)
        except OSError as error:
            remove_file(draft)
            raise RunError(f"{path} could not be written ({error.strerror}): {suggest_remedy(error)}") from error

    def has_weights(self, digest: str, repeat: int | None) -> bool:
        """Check if `save_weights` wrote these weights."""
        return (self.path / "finals" / _make_weights_name(digest, repeat)).exists()

    def read_weights(self, digest: str, repeat: int | None) -> "dict[str, NDArray[Any]]":
        """Read the weights that `save_weights` wrote. Raises RunError when they are missing or damaged."""
        return read_arrays(self.path / "finals" / _make_weights_name(digest, repeat))

    def finish(self, facts: FinishFacts) -> None:
        """Mark the run as finished."""
        write_atomically(self.path / "finished.json", json.dumps(facts, indent=1))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for this process.

        Raises RunError when another process holds the lock, when the run is read-only, and when it contains links, or
        files that are not regular.
        """
        refuse_links(self.path, self.name, list_method_names())
        try:
            file = (self.path / "lock").open("a", encoding="ascii")
        except OSError as error:
            raise RunError(
                f"run {self.name!r} cannot be written to ({error.strerror}): it can only be read and exported"
            ) from error
        with file:
            os.utime(file.fileno())  # lists of runs look at locks whose time has changed
            for patience in range(5, -1, -1):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if not patience:
                        raise RunError(
                            f"run {self.name!r} is being searched by another process: wait for it, or stop it"
                        ) from error
                    time.sleep(0.1)  # another process may only be checking the lock
            yield

    @property
    def running(self) -> bool:
        """True while a process holds the lock; on a network file system, as far as its locks reach."""
        return is_locked(self.path)

    def write_engine_facts(self, facts: EngineFacts) -> None:
        """Write the facts of the process that now searches, for `blendsearch status`."""
        write_atomically(self.path / "engine.json", json.dumps(facts, indent=1))

    def read_engine_facts(self, *, expected: bool = False) -> EngineFacts:
        """Read the facts that `write_engine_facts` wrote last.

        Empty if it never did, with a warning where they are `expected`; with a warning, if damaged.
        """
        path = self.path / "engine.json"
        try:
            facts: EngineFacts = read_json(path, allow_nan=False)
            check_engine_facts(facts)
        except (OSError, ValueError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            if expected or not is_missing:
                state = "missing" if is_missing else f"damaged ({error})"
                warnings.warn(f"{path} is {state}: speed and workers are unknown", stacklevel=2)
            return {}
        return facts


def is_locked(path: Path) -> bool:
    """Check if a process holds the lock of the run directory `path`."""
    try:
        file = open_regular(path / "lock")
    except PermissionError:
        return True  # it belongs to another user, who may be searching
    except OSError:
        return False  # missing, or nothing that a search could have locked
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def check_name(folder: Path, name: str) -> None:
    """Raise RunError unless `name` may become a new run in `folder`."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"a run cannot be called {name!r}: expected 1 to 64 lower-case letters, digits and dashes, no dash first"
        )
    check_encoding(folder.absolute())
    _check_folder(folder)
    if (folder / name).exists():
        raise RunError(f"a run called {name!r} is already in {folder}: choose another --name, or resume it")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"no run can be made in {folder}: no permission to write to {existing}; choose another --runs")


def find_free_name(folder: Path, stem: str, reserved: Collection[str] = ()) -> str:
    """Find the first of stem-1, stem-2, ... that is neither a run in `folder` nor `reserved`."""
    stem = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:50] or "run"
    taken = {*reserved, *((path.name for path in folder.iterdir()) if folder.is_dir() else ())}
    return next(name for number in range(1, 10**9) if (name := f"{stem}-{number}") not in taken)


def create_run(
    folder: Path,
    name: str,
    config: Config,
    provenance: Provenance,
    structure: StructureFacts,
    arrays: "Mapping[str, Mapping[str, NDArray[Any]]]",
    inherited: Sequence[InheritedEvaluation] = (),
) -> Run:
    """Create a run directory with these files; on any failure nothing is left of it.

    `arrays` maps a file's stem to its arrays; `inherited` are the evaluations that a fork inherits. Raises RunError
    when the name is not allowed or taken, or the disk is full.
    """
    check_name(folder, name)
    facts = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "provenance": provenance,
        "structure": structure,
    }
    try:
        with open_draft_folder(folder / name) as draft:
            for stem, named in arrays.items():
                save_arrays(named, draft / f"{stem}.safetensors")
            write_atomically(draft / "config.yaml", dump_config(config))
            write_atomically(draft / "run.json", json.dumps(facts, indent=1))
            with Store(draft / "run.sqlite") as store:
                store.add_inherited(inherited)
            write_owner(draft / "run.sqlite", compute_owner(provenance))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # found free when the search began
            raise RunError(f"another search has just made a run called {name!r} in {folder}: resume it") from error
        raise RunError(f"run {name!r} could not be created in {folder}: {error.strerror or error}") from error
    return Run(folder / name, config, provenance, structure)


def open_run(folder: Path, name: str) -> Run:
    """Open an existing run. Raises RunError when it is missing, no run, damaged, or from a newer blendsearch."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"no run is called {name!r}: expected the id of a run in {folder}, as `blendsearch runs` shows them"
        )
    path = folder / name
    try:
        facts = read_json(path / "run.json", allow_nan=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_dir() and _is_run(path):
            raise RunError(f"{path / 'run.json'} is missing: restore it from a copy") from error
        known = ", ".join(list_runs(folder)[:8]) or "none"
        raise RunError(f"no run {name!r} in {folder}: runs there are {known}; is --runs right?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path / 'run.json'} cannot be read: {error}") from error
    written = facts.get("format") if isinstance(facts, dict) else None
    if type(written) is not int or written < 1:
        raise RunError(f"{path / 'run.json'} has no format number: it is no run")
    if written > FORMAT:
        raise RunError(
            f"run {name!r} was written by a newer blendsearch (format {written}, this one reads up to {FORMAT}): "
            "update blendsearch"
        )
    missing = [name for name in ("config", "provenance", "structure") if not isinstance(facts.get(name), dict)]
    if missing:
        raise RunError(f"{path / 'run.json'} has no {' and no '.join(missing)}: it is damaged; restore it from a copy")
    config = parse_stored_config(facts["config"], str(path / "run.json"))
    try:
        return Run(path, config, decode_provenance(facts["provenance"]), decode_structure(facts["structure"]))
    except ValueError as error:
        raise RunError(f"{path / 'run.json'} is damaged ({error}): restore it from a copy") from error


def list_runs(folder: Path) -> list[str]:
    """List the ids of the runs in `folder`, in alphabetical order. Raises RunError when it is a file."""
    _check_folder(folder)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and _is_run(path))


def _is_run(path: Path) -> bool:
    """Return True for a run, also for one whose ``run.json`` is missing or a link to nothing, or that is unreadable."""
    try:
        return os.path.lexists(path / "run.json") or (path / "run.sqlite").is_file()
    except PermissionError:
        return True


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: --runs expects a folder")


def _make_weights_name(digest: str, repeat: int | None) -> str:
    return f"{digest[:16]}-{'judged' if repeat is None else repeat}.safetensors"


def save_arrays(arrays: "Mapping[str, NDArray[Any]]", path: Path) -> None:
    """Write a safetensors file. Raises OSError when it cannot be written."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        # np.ascontiguousarray would add a dimension to scalars
        save_file({key: np.asarray(value, order="C") for key, value in arrays.items()}, path)
    except SafetensorError as error:
        raise convert_system_error(error) from error
    apply_umask(path)


def read_arrays(path: Path) -> "dict[str, NDArray[Any]]":
    """Read the arrays of a safetensors file. Raises RunError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        open_regular(path).close()
        return load_file(path)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
