"""Submission of searches to a cluster through Ray's Jobs API; the submitting machine may be switched off afterwards.

The package holds the config, the Python files below the working directory, and data and weights that the config names
by relative paths. It never holds runs or hidden files.
"""

import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blendsearch.engine.ray_connection import authenticate, refresh_ray, restore_environment
from blendsearch.errors import ConfigError, EngineError
from blendsearch.extras import format_missing, list_missing_packages
from blendsearch.runs.config.loading import dump_config
from blendsearch.runs.config.schema import Config

MAX_PACKAGE_BYTES = 200 * 2**20
"""Largest package; larger files belong on storage that every node can access."""

EXCLUDED_NAMES = frozenset({"node_modules", "site-packages", "__pycache__"})
EXCLUDED_TOP_LEVEL_NAMES = frozenset({"runs", "build", "dist"})
"""Excluded at the top level only: further down they may be names of packages."""

CONFIG_FILE = "submitted.yaml"


def submit(address: str, config: Config, source: Path, name: str, runs: str) -> str:
    """Submit a job that searches `config` as run `name` in the cluster's folder `runs`, or resumes it; return its id.

    `source` is the working directory from which files are taken. Raises EngineError if the cluster does not accept the
    job, and ConfigError if the files are too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage(config, source, Path(folder))
        words = ["python", "-m", "blendsearch", "search", CONFIG_FILE, "--name", name, "--or-resume"]
        words += ["--runs", runs, "--ray", "auto"]
        identity = f"{name}-{secrets.token_hex(3)}"
        return str(
            _call_dashboard(
                address,
                "submit_job",
                entrypoint=shlex.join(words),
                submission_id=identity,
                runtime_env={"working_dir": folder},
                metadata={"blendsearch_run": name},
            )
        )


def get_status(address: str, job: str) -> str:
    """Return the status (PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED) and Ray's message."""
    info = _call_dashboard(address, "get_job_info", job)
    return f"{info.status.value}: {' '.join((info.message or '').split())}"


def get_logs(address: str, job: str) -> str:
    """Return the output of the job so far."""
    return str(_call_dashboard(address, "get_job_logs", job))


def stop(address: str, job: str) -> bool:
    """Stop the job; return True if it was running. Its run stays and can be resumed."""
    return bool(_call_dashboard(address, "stop_job", job))


def stage(config: Config, source: Path, destination: Path) -> None:
    """Copy the files for a search of `config` from `source` to `destination`. Raises ConfigError if they are too
    large.
    """
    files = {
        path.relative_to(source): path for path in _iter_sources(source, EXCLUDED_NAMES | EXCLUDED_TOP_LEVEL_NAMES)
    }
    model, data = config.model, config.data
    for named in (model.weights, data.root, data.train, data.test, data.val):
        if named is None or Path(named).is_absolute():
            continue
        if not (source / named).resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{named} is outside the working directory: use an absolute path that all nodes can read")
        root = source / named
        paths = root.rglob("*") if root.is_dir() else [root]
        files |= {path.relative_to(source): path for path in paths if path.is_file()}
    large = sorted(files.values(), key=lambda path: -path.stat().st_size)
    total = sum(path.stat().st_size for path in large)
    if total > MAX_PACKAGE_BYTES:
        raise ConfigError(
            f"the files to send have {total / 2**20:,.0f} MiB, the largest is {large[0].relative_to(source)}; at most "
            f"{MAX_PACKAGE_BYTES // 2**20} MiB are sent: put it on storage that every node can read, with an absolute "
            "path"
        )
    for relative, path in files.items():
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
        raise EngineError(f"{address!r} is not the address of a dashboard: expected http://HEAD:8265")
    if missing := list_missing_packages("ray"):
        raise EngineError(format_missing("a job", "cluster", missing))
    try:
        with restore_environment():
            authenticate(address)
            from ray.job_submission import JobSubmissionClient

            refresh_ray()
            return getattr(JobSubmissionClient(address), method)(*args, **kwargs)
    except EngineError:
        raise
    except ImportError as error:
        raise EngineError(format_missing("a job", "cluster", [error.name or "ray"])) from error
    except Exception as error:  # Ray and its HTTP client raise a dozen types
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EngineError(f"{address}: {reason.strip()[:300]}") from error
