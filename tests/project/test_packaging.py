"""Wheel and source distribution work from another directory, and name what they are."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import blendsearch

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_has_one_source() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "blendsearch/version.py"
    assert f"version: {blendsearch.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_classifiers_name_the_versions_of_python() -> None:
    found = {item.rpartition(" ")[2] for item in PROJECT["project"]["classifiers"] if ":: Python :: 3." in item}
    assert found == {"3.11", "3.12", "3.13"} and PROJECT["project"]["requires-python"] == ">=3.11"


def test_users_get_no_development_tools() -> None:
    tools = {re.match(r"[a-z0-9-]+", item)[0] for item in PROJECT["dependency-groups"]["dev"] if isinstance(item, str)}  # type: ignore[index]
    needed = {re.match(r"[a-z0-9-]+", item)[0] for item in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert not needed & tools


def test_every_extra_is_documented() -> None:
    page = (ROOT / "docs" / "howto" / "install.md").read_text(encoding="utf-8")
    assert set(PROJECT["project"]["optional-dependencies"]) == set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions; the wheel is built from the source distribution."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("built")
    done = subprocess.run([uv, "build", "--out-dir", str(folder)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend cannot be installed here")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_distributions_hold_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"blendsearch"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "blendsearch").rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert sources <= set(names)
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        assert not [name for name in archive.getnames() if "/.ci/" in name or "/experiments/" in name]


@pytest.mark.slow
def test_the_wheel_works_from_another_directory(built: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "blendsearch", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import blendsearch; print(blendsearch.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(place)
    assert blendsearch.__version__ in run("--version")
    small = ("search.evaluations=4", "criteria.pool=[l1]", "model.train.epochs=1", "finals.tuning.epochs=0.5")
    printed = run("search", "--name", "one", *(word for item in small for word in ("--set", item)))
    assert "blendsearch export one" in printed
    run("report", "latest")
    run("export", "latest", "--out", "small")
    run("init")
    assert (tmp_path / "one.html").exists() and (tmp_path / "small" / "weights.safetensors").exists()
