"""Scripts that measure speed: the folder's README lists every one, and each has its figures beside it."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "performance"


def test_the_readme_lists_every_script_once() -> None:
    listed = [
        line.split("`")[1].split()[0] for line in (FOLDER / "README.md").read_text().splitlines() if ".py" in line
    ]
    scripts = sorted(path.name for path in FOLDER.glob("*.py"))
    assert [name for name in listed if name in scripts] == scripts
