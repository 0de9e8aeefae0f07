"""Searches handed to a cluster through Ray's Jobs API: they go on when the submitting machine is switched off.

What is sent: the config, the Python files below the working directory, and the data and weights that the config names
by relative paths. Never the runs, nor anything hidden, nor what nothing names.
"""

import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blendsearch.engine.ray_connection import authenticate
from blendsearch.errors import ConfigError, EngineError
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.config.schema import Config

MAX_PACKAGE_BYTES = 200 * 2**20
"""A package that is larger is refused: what is that large belongs on storage that every node sees."""

EXCLUDED_NAMES = frozenset({"node_modules", "site-packages", "__pycache__"})
EXCLUDED_TOP_LEVEL_NAMES = frozenset({"runs", "build", "dist"})
"""Deeper down these are names of packages, as one of ours."""

CONFIG_FILE = "submitted.yaml"


def submit(address: str, config: Config, source: Path, name: str, runs: str) -> str:
    """The id of a job that searches `config` as run `name` in the cluster's folder `runs`, or resumes it there.

    `here` is the working directory to take files from. Raises EngineError when the cluster does not take the job, and
    ConfigError when the files are too large.
    """
    with tempfile.TemporaryDirectory() as place:
        stage(config, source, Path(place))
        words = ["python", "-m", "blendsearch", "search", CONFIG_FILE, "--name", name, "--or-resume"]
        words += ["--runs", runs, "--ray", "auto"]
        identity = f"{name}-{secrets.token_hex(3)}"
        return str(
            _call_dashboard(
                address,
                "submit_job",
                entrypoint=shlex.join(words),
                submission_id=identity,
                runtime_env={"working_dir": place},
                metadata={"blendsearch_run": name},
            )
        )


def get_status(address: str, job: str) -> str:
    """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED, and what Ray says of it."""
    found = _call_dashboard(address, "get_job_info", job)
    return f"{found.status.value}: {' '.join((found.message or '').split())}"


def get_logs(address: str, job: str) -> str:
    """All that the job has written so far."""
    return str(_call_dashboard(address, "get_job_logs", job))


def stop(address: str, job: str) -> bool:
    """Ask the job to stop, and say whether it was still going; its run stays, to be resumed."""
    return bool(_call_dashboard(address, "stop_job", job))


def stage(config: Config, source: Path, destination: Path) -> None:
    """Copy into `place` what a search of `config` needs from `here`. Raises ConfigError when that is too large."""
    wanted = {
        path.relative_to(source): path for path in _iter_sources(source, EXCLUDED_NAMES | EXCLUDED_TOP_LEVEL_NAMES)
    }
    model, data = config.model, config.data
    for named in (model.weights, data.root, data.train, data.test, data.val):
        if named is None or Path(named).is_absolute():
            continue
        if not (source / named).resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{named} lies above the working directory: give an absolute path that every node sees")
        found = source / named
        files = found.rglob("*") if found.is_dir() else [found]
        wanted |= {path.relative_to(source): path for path in files if path.is_file()}
    large = sorted(wanted.values(), key=lambda path: -path.stat().st_size)
    total = sum(path.stat().st_size for path in large)
    if total > MAX_PACKAGE_BYTES:
        raise ConfigError(
            f"the files to send make {total / 2**20:,.0f} MiB, the largest {large[0].relative_to(source)}; at most "
            f"{MAX_PACKAGE_BYTES // 2**20} MiB are sent: put it on storage that every node sees, under an absolute path"
        )
    for relative, path in wanted.items():
        (destination / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination / relative)
    (destination / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")


def _iter_sources(folder: Path, excluded: frozenset[str] = EXCLUDED_NAMES) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in excluded or path.is_symlink():
            continue
        if path.is_dir():
            if not (path / "pyvenv.cfg").exists():
                yield from _iter_sources(path)
        elif path.suffix == ".py":
            yield path


def _call_dashboard(address: str, method: str, *args: Any, **kwargs: Any) -> Any:
    if not address.startswith(("http://", "https://")):
        raise EngineError(f"{address!r} is no address of a dashboard: expected http://HEAD:8265")
    authenticate(address)
    try:
        from ray.job_submission import JobSubmissionClient

        return getattr(JobSubmissionClient(address), method)(*args, **kwargs)
    except ImportError as error:
        raise EngineError("jobs need Ray's own extra: install blendsearch[cluster]") from error
    except Exception as error:  # a dozen types, from Ray and from what it speaks HTTP with
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EngineError(f"{address}: {reason.strip()[:300]}") from error
