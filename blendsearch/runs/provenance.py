"""Provenance of a run: code, versions, device, and hashes of weights and data."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.runs.run_facts import PACKAGES, Provenance


def collect_provenance(
    command: list[str], device: str, weights: str, data: str, scores: str, code: Mapping[str, str]
) -> Provenance:
    """Collect the provenance of a new run; `weights`, `data`, `scores` and `code` are SHA-256 digests."""
    return {
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: get_installed_version(name) for name in PACKAGES},
        "git": _get_git_commit(),
        "device": device,
        "weights_sha256": weights,
        "data_sha256": data,
        "scores_sha256": scores,
        "code": dict(code),
    }


def hash_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Compute SHA-256 over names, types, shapes and contents, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def get_installed_version(package: str) -> str:
    """Get the version of `package`, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _get_git_commit() -> str:
    """Get the commit of the running code, with ``-dirty`` if it was changed; empty outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # an installed package may be inside another project's checkout
        if not git("ls-files", "--error-unmatch", "provenance.py"):
            return ""
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
