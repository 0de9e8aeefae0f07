"""Trust in the code that a run directory names: its factory, criteria modules, transforms, training, latency command.

A run directory may come from somebody else, and importing what it names runs that code. It is imported only where the
user says so (``--trust``, ``trust=True``), or where this user made the run on this machine. The second is proved by a
signature: an HMAC of the names, with a key that only this user can read, bound to the directory's path and inode, so
that neither a copy nor an edited run.json carries it along.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from blendsearch.data.source_names import HUGGING_FACE
from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config
from blendsearch.runs.files import open_regular
from blendsearch.runs.run import Run

SIGNATURE = "signature"
"""File of a run directory."""

KEY_BYTES, MAX_SIGNATURE_BYTES = 32, 1_000
BUILT_IN_PREFIXES = ("", "torchvision", "timm", PYTHON_PREFIX)
"""Prefixes of factories that import nothing of the user's."""


def list_code(config: Config) -> list[str]:
    """List the user-defined code that `config` names: modules of functions, and the command that measures latency."""
    place = config.model.factory.rpartition(":")[0]
    functions = [
        *(config.data.transforms, config.data.dataset),
        *config.training.get_function_names().values(),
        *config.task.get_function_names().values(),
    ]
    hub = [HUGGING_FACE] if config.data.dataset == HUGGING_FACE else []  # whose loader may run a set's own code
    sources = [name.rpartition(":")[0] for name in functions]
    named = [source for source in sources if source not in BUILT_IN_PREFIXES]
    command = config.budget.measured.command
    commands = [] if command is None else [f"the command {command!r}"]
    modules = [*([] if place in BUILT_IN_PREFIXES else [place]), *config.criteria.modules, *named, *hub, *commands]
    return list(dict.fromkeys(modules))


def sign_run(path: Path, config: Config) -> None:
    """Sign the run at `path` as made by this user on this machine; without a writable home, leave it unsigned."""
    if list_code(config):
        with contextlib.suppress(OSError):
            write_atomically(path / SIGNATURE, _compute_signature(path, config, _get_key(create=True)))


def check_trusted(run: Run, trust: bool) -> None:
    """Raise RunError where `run` names user-defined code and is neither signed nor trusted explicitly."""
    modules = list_code(run.config)
    if not modules or trust or _is_signed(run):
        return
    raise RunError(
        f"run {run.name!r} names user-defined code ({', '.join(modules)}) and was not made by you at this place on "
        "this machine: continuing runs that code; read it first, then add --trust (in Python: trust=True)"
    )


def _is_signed(run: Run) -> bool:
    try:
        with open_regular(run.path / SIGNATURE) as file:
            written = file.read(MAX_SIGNATURE_BYTES).decode("ascii").strip()
        return hmac.compare_digest(written, _compute_signature(run.path, run.config, _get_key(create=False)))
    except (OSError, ValueError, TypeError):
        return False


def _compute_signature(path: Path, config: Config, key: bytes) -> str:
    """Compute the signature of a run: over its place, and everything that names user-defined code."""
    place = path.resolve(strict=True)
    facts = [str(place), place.stat().st_ino, config.model.model_dump(mode="json"), list(config.criteria.modules)]
    # left out where there are none: the signatures of earlier versions stay valid
    if ":" in config.data.transforms:
        facts.append(config.data.transforms)
    if functions := config.training.get_function_names():
        facts.append(functions)
    if tasks := config.task.get_function_names():
        facts.append(tasks)
    source = config.data.dataset.rpartition(":")[0]
    if source not in BUILT_IN_PREFIXES or config.data.dataset == HUGGING_FACE:
        facts.append([config.data.dataset, config.data.name, config.data.arguments])
    if config.budget.measured.command is not None:
        facts.append(config.budget.measured.command)
    return hmac.new(key, json.dumps(facts, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _get_key(*, create: bool) -> bytes:
    """Read this user's key, or make it. Raises OSError where there is none, or where others could have written it."""
    home = os.environ.get("XDG_STATE_HOME")
    path = (Path(home) if home else Path.home() / ".local" / "state") / "blendsearch" / "key"
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "xb", opener=_open_private) as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    with open_regular(path) as stored:
        state, key = os.fstat(stored.fileno()), stored.read(KEY_BYTES + 1)
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or len(key) != KEY_BYTES:
        raise PermissionError(f"{path} is not a key that this user alone can read")
    return key


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
