"""An environment that holds what the core of blendsearch requires, and none of its extras."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def make_core_environment(folder: Path) -> Path:
    """Make an environment of links to the installed packages that the core requires; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for found in list_required(project["dependencies"]).values():
        link_files(found, place)
    return folder / "bin" / "python"


def list_required(requirements: Iterable[str]) -> dict[str, Distribution]:
    """List the installed distributions that `requirements` need, directly or not, by name."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = requirement.extras or {""}
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": item}) for item in extras):
            continue
        if name not in found:
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:  # for another kind of machine
                continue
            waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def link_files(found: Distribution, place: Path) -> None:
    """Link the files and folders of a distribution at the top of `place`."""
    for name in {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (place / name).exists() and not name.endswith(".pth"):
            (place / name).symlink_to(Path(str(found.locate_file(name))))


def make_variables(source: Path) -> dict[str, str]:
    """Return the variables of the environment that imports blendsearch from `source`."""
    dropped = ("FORCE_COLOR", "VIRTUAL_ENV", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
