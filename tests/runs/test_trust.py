"""Paths are paths, and what lies in a run directory is checked before it is used."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from run_files import row

import blendsearch as bs
from blendsearch.cli.main import main
from blendsearch.errors import ConfigError, RunError
from blendsearch.runs import trust
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store
from blendsearch.service.config_policy import check_fork_overrides, parse_remote_config


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


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """Make a folder with one finished run of the steady schedule, ``one``; copy it before changing it."""
    folder = tmp_path_factory.mktemp("steady")
    (folder / "config.yaml").write_text(yaml.safe_dump(small_config))
    words = ("--runs", str(folder / "runs"), "--name", "one", "--set", "search.schedule=steady")
    main(["search", str(folder / "config.yaml"), *words])
    return folder / "runs"


STEADY_DELETIONS = {
    "DELETE FROM evaluations WHERE id BETWEEN 5 AND 9": "lacks 5 of the 31 evaluations that its journal lists",
    "DELETE FROM completions WHERE id BETWEEN 5 AND 9": "lacks 5 of the 31 entries that its journal needs",
    "DELETE FROM evaluations WHERE id BETWEEN 5 AND 9; DELETE FROM completions WHERE id BETWEEN 5 AND 9": (
        "lacks 5 of the 30 evaluations that its generations count"
    ),
}


@pytest.mark.parametrize("statements", STEADY_DELETIONS)
def test_rows_that_are_missing_behind_a_journal_are_noticed(
    statements: str, steady: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(steady / "one", tmp_path / "one")
    (tmp_path / "one" / "finished.json").unlink()
    with sqlite3.connect(tmp_path / "one" / "run.sqlite") as connection:
        connection.executescript(statements)
    connection.close()
    error = fail(capsys, "resume", "one", "--runs", tmp_path)
    assert f"run.sqlite of run 'one' {STEADY_DELETIONS[statements]}: restore the file" in error
    assert not (tmp_path / "one" / "finished.json").exists()


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


MODULE = """
from pathlib import Path

Path({marker!r}).touch()


def make(width: int):
    from blendsearch.zoo.digits_net import digits_net

    return digits_net(width=width)
"""


@pytest.fixture
def own_run(quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run `own` of a user-defined factory, and the file that importing it makes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_factory.py").write_text(MODULE.format(marker=str(tmp_path / "imported")))
    quick["model"] |= {"factory": "own_factory:make", "arguments": {"width": 8}}
    quick |= {"search": {"evaluations": 6, "population": 4}, "criteria": {"pool": ["l1"], "images": 32}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs"), "--name", "own"])
    _forget(tmp_path)
    return tmp_path / "runs"


def _forget(folder: Path) -> None:
    (folder / "imported").unlink(missing_ok=True)
    sys.modules.pop("own_factory", None)


VERBS = {
    "resume": ["resume", "own", "--set", "search.evaluations=8"],
    "fork": ["fork", "own", "--set", "search.evaluations=6"],
    "compare": ["compare", "own", "--controls", "random", "--seeds", "1"],
    "export": ["export", "own", "--to", "exported"],
    "criteria": ["criteria", "--run", "own"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_copied_run_imports_nothing_without_trust(verb: str, own_run: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(own_run, tmp_path / "copied")
    error = fail(capsys, *VERBS[verb], "--runs", tmp_path / "copied")
    assert "names user-defined code (own_factory)" in error and "--trust" in error
    assert not (tmp_path / "imported").exists() and "own_factory" not in sys.modules


def test_the_own_run_is_trusted_until_it_is_edited_or_its_key_is_gone(
    own_run: Path, tmp_path: Path, capsys: Any
) -> None:
    main([*VERBS["export"], "--runs", str(own_run)])
    assert (tmp_path / "imported").exists()
    _forget(tmp_path)
    facts = json.loads((own_run / "own" / "run.json").read_text())
    facts["config"]["model"]["arguments"]["width"] = 4
    (own_run / "own" / "run.json").write_text(json.dumps(facts))
    assert "names user-defined code" in fail(capsys, "export", "own", "--to", "other", "--runs", own_run)
    facts["config"]["model"]["arguments"]["width"] = 8
    (own_run / "own" / "run.json").write_text(json.dumps(facts))
    (tmp_path / "state" / "blendsearch" / "key").chmod(0o644)  # anyone could have read it
    assert "names user-defined code" in fail(capsys, "export", "own", "--to", "other", "--runs", own_run)
    assert not (tmp_path / "imported").exists()
    main(["export", "own", "--to", "other", "--trust", "--runs", str(own_run)])
    assert (tmp_path / "imported").exists()


def test_a_copied_run_starts_no_command_without_trust(
    quick: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    marker = tmp_path / "started"
    quick |= {"search": {"evaluations": 6, "population": 4}, "criteria": {"pool": ["l1"], "images": 32}}
    quick["budget"] = {"macs": 0.5, "measured": {"command": f"touch {marker}"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs"), "--name", "own"])
    assert "budget.measured.command 'touch " in capsys.readouterr().out  # a warning: it prints no milliseconds
    marker.unlink()
    shutil.copytree(tmp_path / "runs", tmp_path / "copied")
    for verb in ("resume", "fork"):
        error = fail(capsys, *VERBS[verb], "--runs", tmp_path / "copied")
        assert "names user-defined code (the command 'touch " in error and "--trust" in error
    assert not marker.exists()
    main([*map(str, VERBS["resume"]), "--runs", str(tmp_path / "copied"), "--trust"])
    assert marker.exists()
    facts = json.loads((tmp_path / "runs" / "own" / "run.json").read_text())
    facts["config"]["budget"]["measured"]["command"] += " other"
    (tmp_path / "runs" / "own" / "run.json").write_text(json.dumps(facts))
    assert "names user-defined code" in fail(capsys, *VERBS["fork"], "--runs", tmp_path / "runs")


@pytest.mark.parametrize(
    "override", ["budget.measured.command=x", "budget.measured={command: x}", 'budget.measured={"c\\x6fmmand": x}']
)
def test_no_command_is_taken_from_a_network(override: str) -> None:
    with pytest.raises(ConfigError, match=r"budget\.measured\.command is not taken from a network"):
        check_fork_overrides([override])
    tree = "model: {factory: digits_net, train: {}}\ndata: {dataset: digits}\nbudget: {macs: 0.5}\n"
    with pytest.raises(ConfigError, match=r"budget\.measured\.command is not taken from a network"):
        parse_remote_config(tree, [override], None)


def test_the_python_api_asks_for_trust_too(own_run: Path, tmp_path: Path) -> None:
    shutil.copytree(own_run, tmp_path / "copied")
    with pytest.raises(RunError, match="trust=True"):
        bs.open("own", runs=tmp_path / "copied").best().module()
    assert not (tmp_path / "imported").exists()
    assert bs.open("own", runs=tmp_path / "copied", trust=True).best().module() is not None


def test_a_run_that_names_a_system_call_does_not_make_it(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["model"] |= {"factory": "os:system", "arguments": {"command": f"touch {tmp_path / 'made'}"}}
    path.write_text(json.dumps(facts))
    for verb in ("resume", "fork", "compare", "export"):
        words = VERBS[verb] if verb != "export" else ["export", "own", "--to", str(tmp_path / "out")]
        fail(capsys, *(word.replace("own", "one") for word in words), "--runs", tmp_path)
    assert not (tmp_path / "made").exists()


def test_criteria_modules_of_a_run_are_not_imported(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["criteria"]["modules"] = ["this"]
    path.write_text(json.dumps(facts))
    assert "names user-defined code (this)" in fail(capsys, "criteria", "--run", "one", "--runs", tmp_path)
    assert "this" not in sys.modules


def test_training_functions_of_a_run_are_not_imported(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["training"]["on_step"] = "antigravity:fly"
    path.write_text(json.dumps(facts))
    (tmp_path / "one" / "finished.json").unlink()
    for words in (["resume", "one"], ["export", "one", "--to", str(tmp_path / "out")], ["fork", "one"]):
        assert "names user-defined code (antigravity)" in fail(capsys, *words, "--runs", tmp_path)
    assert "antigravity" not in sys.modules


def test_transforms_of_a_run_are_not_imported(searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["data"]["transforms"] = "antigravity:fly"
    path.write_text(json.dumps(facts))
    assert "names user-defined code (antigravity)" in fail(capsys, "criteria", "--run", "one", "--runs", tmp_path)
    assert "antigravity" not in sys.modules


def test_the_signature_covers_user_defined_transforms(tmp_path: Path) -> None:
    tree = {
        "model": {"factory": "digits_net", "train": {"epochs": 1}},
        "data": {"dataset": "digits"},
        "budget": {"macs": 0.5},
    }
    plain, preset, named, other = (
        parse_config({**tree, "data": {"dataset": "digits", "transforms": name}}, "it")
        for name in ("none", "cifar", "mine:make", "mine:other")
    )
    signatures = [trust._compute_signature(tmp_path, config, b"key") for config in (plain, preset, named, other)]
    assert signatures[0] == signatures[1] and len(set(signatures)) == 3
    assert [trust.list_code(config) for config in (plain, preset, named)] == [[], [], ["mine"]]


@pytest.mark.parametrize("name", ["lock", "logs/worker-0.jsonl", ".engine.json.draft", "checkpoints"])
def test_links_inside_a_run_are_not_followed_for_writing(
    name: str, searched: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    (tmp_path / "one" / "finished.json").unlink()
    outside = tmp_path / "outside"
    path = tmp_path / "one" / name
    if path.is_dir():
        shutil.move(path, outside)
    else:
        outside.write_text("keep")
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    error = fail(capsys, "resume", "one", "--runs", tmp_path)
    assert f"{name} in run 'one' is a symbolic link" in error
    assert outside.is_dir() or outside.read_text() == "keep"
    main(["front", "one", "--runs", str(tmp_path)])  # reading follows them


@pytest.mark.parametrize("name", ["lock", "run.sqlite", "logs/worker-0.jsonl", ".engine.json.draft"])
def test_hard_links_inside_a_run_are_not_written_to(name: str, searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    (tmp_path / "one" / "finished.json").unlink()
    path, outside = tmp_path / "one" / name, tmp_path / "outside"
    path.touch()
    os.link(path, outside)
    before = outside.read_bytes()
    error = fail(capsys, "resume", "one", "--runs", tmp_path)
    assert f"{name} in run 'one' is a hard link" in error
    assert outside.read_bytes() == before


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_reading_a_run_does_not_write_through_links_beside_its_database(
    ending: str, make: Any, searched: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(searched / "one", tmp_path / "one", ignore=shutil.ignore_patterns("*.sqlite-*"))
    outside, companion = tmp_path / "outside", tmp_path / "one" / f"run.sqlite{ending}"
    outside.write_text("keep")
    make(companion, outside)
    assert f"run.sqlite{ending} is a" in fail(capsys, "front", "one", "--runs", tmp_path)
    assert outside.read_text() == "keep"


@pytest.mark.parametrize("name", ["lock", "signature", "engine.json", "run.sqlite", "dense.safetensors", "run.json"])
def test_a_pipe_in_a_run_does_not_block(name: str, searched: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(searched / "one", tmp_path / "one", ignore=shutil.ignore_patterns("*.sqlite-*"))
    (tmp_path / "one" / "finished.json").unlink()
    path = tmp_path / "one" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert name in fail(capsys, "resume", "one", "--runs", tmp_path)
    if name not in ("run.json", "run.sqlite"):
        main(["status", "one", "--runs", str(tmp_path)])
        assert "another process" not in capsys.readouterr().out


def test_files_have_the_permissions_of_the_umask(searched: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        main(["export", "one", "--to", str(tmp_path / "out"), "--runs", str(searched)])
    finally:
        os.umask(before)
    assert {item.stat().st_mode & 0o777 for item in (tmp_path / "out").iterdir()} == {0o640}
    stored = {item.stat().st_mode & 0o777 for item in (searched / "one").rglob("*.safetensors")}
    assert stored == {0o666 & ~before}


@pytest.mark.parametrize("words", [["report", "one", "--to", "page.html"], ["export", "one", "--to", "out"]])
def test_modules_beside_somebody_elses_run_do_not_stand_in_for_installed_ones(
    words: list[str], searched: Path, tmp_path: Path
) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    for name in (
        "numpy",
        "torch",
        "yaml",
        "rich",
        "matplotlib",
        "jinja2",
        "safetensors",
        "onnxruntime",
        "onnx",
        "timm",
    ):
        (tmp_path / f"{name}.py").write_text(f"open('{name}-was-imported', 'w').close()\nraise ImportError\n")
    # -P, as for the installed command: python -m puts the working folder first by itself
    command = [sys.executable, "-P", "-m", "blendsearch", *words, "--runs", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*-was-imported"))


NAMED = {
    "model": {"factory": "a:make", "weights": "factory"},
    "data": {"dataset": "b.data:make"},
    "task": {"evaluate": "c:evaluate", "evaluate_test": "c:test", "loss": "d:loss"},
    "training": {"train_fn": "e:train"},
    "budget": {"macs": 0.5},
}


def test_all_code_that_a_config_names_is_listed() -> None:
    assert trust.list_code(parse_config(NAMED, "test")) == ["a", "b.data", "e", "d", "c"]
    plain = {"factory": "timm:resnet18", "weights": "factory"}
    for dataset, modules in (("digits", []), ("torchvision:CIFAR10", []), ("huggingface", ["huggingface"])):
        tree = {**NAMED, "model": plain, "data": {"dataset": dataset}, "task": {}, "training": {}}
        assert trust.list_code(parse_config(tree, "test")) == modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "model.factory"),
        ({"model": {"factory": "timm:resnet18", "weights": "factory"}}, "model.factory"),
        ({"model": {"factory": "torchvision:resnet18", "weights": "factory"}}, "model.weights factory .* downloads"),
        ({"task": NAMED["task"]}, "task.loss is not taken from a network"),
        ({"data": NAMED["data"]}, "is no name of a data set"),
        ({"data": {"dataset": "torchvision:CIFAR10"}}, "is no name of a data set"),
        ({"data": {"dataset": "huggingface", "name": "a/b"}}, "data.dataset huggingface is not taken from a network"),
    ],
)
def test_code_and_downloads_are_not_taken_from_a_network(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from blendsearch.service.config_policy import parse_remote_config

    plain = {"model": {"factory": "digits_net", "train": {}}, "data": {"dataset": "digits"}, "budget": {"macs": 0.5}}
    text = yaml.safe_dump({**plain, **change} if change else NAMED)
    with pytest.raises(ConfigError, match=message):
        parse_remote_config(text, [], tmp_path)
