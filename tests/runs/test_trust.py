"""Paths are paths, and what lies in a run directory is checked before it is used."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from run_files import row

from blendsearch.cli.main import main
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store


def fail(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a verb that is refused, and return its one line."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize("name", ["c#d", "c?d", "c%41d", "c d", "c%23d", "ü"])
def test_the_store_lies_in_the_folder_of_its_run_whatever_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "other").mkdir()
    path = tmp_path / name / "run.sqlite"
    with Store(path) as store:
        store.add(row(1))
    assert path.is_file() and sorted(item.name for item in tmp_path.iterdir()) == sorted([name, "other"])
    with Store(path, read_only=True) as store:
        assert [item.id for item in store.read_evaluations()] == [1]
    with Store(tmp_path / "other" / "run.sqlite") as store:
        assert store.read_evaluations() == []


def test_two_searches_below_a_folder_with_a_number_sign_share_nothing(quick: dict[str, Any], tmp_path: Path) -> None:
    quick["search"] = {"evaluations": 12, "population": 4}
    folder = tmp_path / "c#d"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(quick))
    for name in ("one", "two"):
        main(["search", str(folder / "config.yaml"), "--runs", str(folder), "--name", name])
        with open_run(folder, name).open_store(read_only=True) as store:
            assert len(store.read_evaluations()) == 13
    assert [item.name for item in tmp_path.iterdir()] == ["c#d"]


def test_a_run_on_media_that_cannot_be_written_is_read(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    for item in (tmp_path / "one").glob("run.sqlite-*"):
        item.unlink()
    target = f"{(tmp_path / 'one' / 'run.sqlite').as_uri()}?mode=ro&immutable=1"
    expected = sqlite3.connect(target, uri=True).execute("SELECT count(*) FROM evaluations").fetchone()[0]
    with Store(tmp_path / "one" / "run.sqlite", read_only=True) as store:
        assert len(store.read_evaluations()) == expected


def test_an_edited_copy_of_the_config_is_not_ignored(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    (tmp_path / "one" / "finished.json").unlink()
    path = tmp_path / "one" / "config.yaml"
    edited = yaml.safe_load(path.read_text())
    edited["search"]["evaluations"] = 31
    path.write_text(yaml.safe_dump(edited))
    error = fail(capsys, "resume", "one", "--runs", tmp_path)
    assert "config.yaml of run 'one' was edited (search.evaluations is 31, recorded as 30)" in error
    path.unlink()
    main(["resume", "one", "--runs", str(tmp_path)])


def test_rows_that_are_missing_behind_a_checkpoint_are_noticed(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    (tmp_path / "one" / "finished.json").unlink()
    with sqlite3.connect(tmp_path / "one" / "run.sqlite") as connection:
        connection.execute("DELETE FROM evaluations WHERE id BETWEEN 5 AND 9")
    assert "run.sqlite of run 'one' lacks 5 of the 30" in fail(capsys, "resume", "one", "--runs", tmp_path)


@pytest.mark.parametrize("facts", [{"format": 1}, {"format": 1, "config": [], "provenance": {}, "structure": {}}])
def test_a_damaged_run_is_named_and_hides_no_other(
    facts: dict[str, Any], searched: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(json.dumps(facts))
    for verb in ("front", "status", "report"):
        assert "it is damaged" in fail(capsys, verb, "bad", "--runs", tmp_path)
    main(["runs", "--runs", str(tmp_path), "--json"])
    listed = {item["run"]: item for item in json.loads(capsys.readouterr().out)}
    assert listed["one"]["state"] == "finished" and set(listed) == {"one", "bad"}


def test_classes_without_images_and_a_single_validation_image_are_reported(
    quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "train.npz", x=images, y=labels)
    np.savez(tmp_path / "val.npz", x=images[:1], y=labels[:1])
    np.savez(tmp_path / "test.npz", x=images[:9], y=labels[:9])
    files = {name: str(tmp_path / f"{name}.npz") for name in ("train", "val", "test")}
    quick |= {"data": {"dataset": "npz", **files}, "search": {"evaluations": 4, "population": 4}}
    quick["criteria"] = {"pool": ["l1"], "images": 32}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs")])
    said = capsys.readouterr().out
    assert "validation has a single image" in said and "validation has no image of 2 of 3 classes (1, 2)" in said
