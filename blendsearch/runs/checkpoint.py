"""Checkpoints: the optimizer's state after each generation, one JSON file each, written atomically.

A checkpoint holds the state that resumption needs and that the store does not hold: the genomes in order, their
objectives and crowding distances, both random streams, and the number of the next generation.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from blendsearch.errors import RunError
from blendsearch.runs.decoding import check_type
from blendsearch.runs.files import remove_file, suggest_remedy
from blendsearch.runs.parsing import parse_json, read_json

MAX_CHECKPOINTS = 3
"""Number of checkpoints kept: the last one, and earlier ones in case it is damaged."""


class _Envelope(TypedDict):
    sha256: str
    state: str


def save_checkpoint(folder: Path, generation: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of `generation` atomically, then remove those older than the last few.

    Raises RunError when it cannot be written (a full disk); earlier checkpoints stay intact.
    """
    body = json.dumps(state, separators=(",", ":"), allow_nan=False)
    text = json.dumps({"sha256": _compute_digest(body), "state": body})
    with suppress(FileNotFoundError):  # the run directory is gone, as the next line reports
        folder.mkdir(exist_ok=True)
    write_atomically(folder / f"generation-{generation:05d}.json", text)
    for old in sorted(folder.glob("generation-*.json"))[:-MAX_CHECKPOINTS]:
        remove_file(old)


def load_checkpoint(folder: Path, report: Callable[[str], None]) -> dict[str, Any] | None:
    """Load the newest intact checkpoint, None if there is none; `report` receives a line for every damaged one.

    Raises RunError when all checkpoints are damaged.
    """
    found = sorted(folder.glob("generation-*.json"), reverse=True)
    for path in found:
        try:
            envelope = read_json(path, allow_nan=False)
            check_type(envelope, _Envelope)
            body = envelope["state"]
            if envelope["sha256"] != _compute_digest(body):
                raise ValueError("its checksum does not match")
            state: dict[str, Any] = parse_json(body, allow_nan=False)
            check_type(state, dict[str, Any])
            if path.stem != f"generation-{state.get('generation', int(path.stem[-5:])):05d}":
                raise ValueError("it is of another generation")
        except (OSError, ValueError, KeyError, TypeError) as error:
            report(f"checkpoint {path.name} is damaged ({error}) and is skipped")
            continue
        return state
    if found:
        raise RunError(f"every checkpoint in {folder} is damaged: restore one from a backup, or start a new run")
    return None


@contextmanager
def refuse_unfit_state(folder: Path) -> Iterator[None]:
    """Raise RunError where the state of a checkpoint in `folder`, used inside, is not one of this run."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise RunError(
            f"the newest checkpoint in {folder} does not fit its run ({' '.join(str(error).split())[:200]}): "
            "restore it from a copy, or remove it to resume from the one before"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`: after a crash it holds the old text or the new one, never a part.

    Raises RunError when it cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        remove_file(draft)
        raise RunError(
            f"{path} could not be written ({error.strerror or error}): the previous file is intact; "
            f"{suggest_remedy(error)}"
        ) from error


def _compute_digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
