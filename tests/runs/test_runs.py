"""Run directories, stores and checkpoints: crashes, and refusals of wrong input."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import row

from blendsearch.errors import ConfigError, RunError
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.config.loading import DIGITS, dump_config, load_config, parse_config
from blendsearch.runs.run import check_name, create_run, find_free_name, list_runs, open_run
from blendsearch.runs.run_facts import PACKAGES
from blendsearch.runs.store import Store
from blendsearch.training.training_store import FolderStore

PROVENANCE: Any = {
    "command": [],
    "python": "3",
    "platform": "Linux",
    "packages": dict.fromkeys(PACKAGES, "1"),
    "git": "",
    "device": "cpu",
    "weights_sha256": "",
    "data_sha256": "",
}
STRUCTURE: Any = {
    "criteria": ["l1"],
    "left_out": [],
    "clusters": [[[0]]],
    "groups": [{"name": "stem", "channels": 8}],
    "frozen": [],
    "dense": {"macs": 10, "params": 20},
    "splits": "",
}


def made(folder: Path, name: str = "one") -> None:
    create_run(folder, name, load_config(DIGITS), PROVENANCE, STRUCTURE, {"dense": {"w": np.ones(3)}})


def test_a_run_is_read_as_it_was_created(tmp_path: Path) -> None:
    made(tmp_path)
    run = open_run(tmp_path, "one")
    assert run.config == load_config(DIGITS)
    assert run.read_arrays("dense")["w"].tolist() == [1, 1, 1]
    assert list_runs(tmp_path) == ["one"]
    assert find_free_name(tmp_path, "one") == "one-1"
    assert parse_config(json.loads((tmp_path / "one/run.json").read_text())["config"], "x") == run.config
    assert "digits_net" in dump_config(run.config)


@pytest.mark.parametrize("name", ["", "..", "../up", "/etc", "UPPER", "-dash", "a/b", "a" * 65, "a.b", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError):
        check_name(tmp_path, name)
    with pytest.raises(RunError):
        open_run(tmp_path, name)


def test_a_run_is_not_made_below_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"xff' is not UTF-8"):
        made(tmp_path / "bad\udcff")
    assert not list(tmp_path.iterdir())


def test_a_read_only_run_is_read_and_not_resumed(tmp_path: Path) -> None:
    made(tmp_path)
    (
        tmp_path / "one" / "lock"
    ).mkdir()  # as on a read-only file system, where it cannot be opened; root may write files
    run = open_run(tmp_path, "one")
    with pytest.raises(RunError, match=r"run 'one' cannot be written to \(Is a directory\)"), run.lock():
        pass
    assert run.read_arrays("dense")["w"].tolist() == [1, 1, 1]


def test_a_taken_name_is_refused_and_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(RunError, match="already"):
        made(tmp_path)
    with pytest.raises(AttributeError):
        create_run(tmp_path, "two", load_config(DIGITS), {}, {}, {"dense": 3})  # type: ignore[dict-item]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_two_searches_of_one_name_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    monkeypatch.setattr("blendsearch.runs.run.check_name", lambda *_: None)  # as it was before the other one ended
    with pytest.raises(RunError, match="another search has just made a run called 'one'"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_file_is_no_folder_of_runs_and_no_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for reading in (lambda: check_name(file, "one"), lambda: list_runs(file)):
        with pytest.raises(RunError, match="is a file: --runs expects a folder"):
            reading()
    with pytest.raises(RunError, match="no run 'file' in"):
        open_run(tmp_path, "file")


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "one" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(RunError, match="newer blendsearch"):
        open_run(tmp_path, "one")


def test_a_run_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    made(tmp_path)
    run = open_run(tmp_path, "one")
    with run.lock(), pytest.raises(RunError, match="another process"), open_run(tmp_path, "one").lock():
        pass
    with run.lock():
        pass


def test_the_newest_intact_checkpoint_is_used_and_damage_is_reported(tmp_path: Path) -> None:
    for generation in range(1, 6):
        save_checkpoint(tmp_path, generation, {"generation": generation})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"generation-{number:05d}.json" for number in (3, 4, 5)]
    (tmp_path / kept[2]).write_text((tmp_path / kept[2]).read_text()[:30])
    (tmp_path / kept[1]).write_text((tmp_path / kept[1]).read_text().replace("4", "7"))
    messages: list[str] = []
    assert load_checkpoint(tmp_path, messages.append) == {"generation": 3}
    assert len(messages) == 2 and all("damaged" in text for text in messages)
    (tmp_path / kept[0]).write_text("{}")
    with pytest.raises(RunError, match="every checkpoint"):
        load_checkpoint(tmp_path, messages.append)


def test_a_failed_checkpoint_leaves_the_previous_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"generation": 1})
    (tmp_path / ".generation-00002.json.draft").mkdir()  # stands for a disk that takes no more
    with pytest.raises((RunError, OSError)):
        save_checkpoint(tmp_path, 2, {"generation": 2})
    assert load_checkpoint(tmp_path, print) == {"generation": 1}


@contextmanager
def full_disk() -> Iterator[None]:
    """Fail every write beyond 4 kB of a file, with an error of the operating system, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_arrays_that_do_not_fit_on_the_disk_cost_one_line_and_leave_nothing(tmp_path: Path) -> None:
    large = {"a": np.ones(100_000, np.float32)}
    made(tmp_path)
    run = open_run(tmp_path, "one")
    run.save_arrays("scores", {"a": np.ones(3)})
    save_array_checkpoint(run.checkpoints, 1, {"epoch": 1}, {"a": np.ones(3)})
    with full_disk():
        for write in (
            lambda: run.save_arrays("scores", large),
            lambda: run.save_weights("0" * 64, 0, large),
            lambda: save_array_checkpoint(run.checkpoints, 2, {"epoch": 2}, large),
            lambda: create_run(tmp_path, "two", load_config(DIGITS), PROVENANCE, STRUCTURE, {"dense": large}),
        ):
            with pytest.raises(RunError, match="could not be .*File too large"):
                write()
    assert list(run.read_arrays("scores")["a"]) == [1, 1, 1]
    assert load_array_checkpoint(run.checkpoints, print)[0] == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert not [path for path in run.path.rglob("*") if "draft" in path.name or ".tmp" in path.name]


def test_a_training_state_that_does_not_fit_on_the_disk_does_not_end_the_training(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "training")
    store.save("key", b"before")
    with full_disk(), pytest.warns(UserWarning, match="could not be written .File too large"):
        store.save("key", bytes(10_000))
    assert store.load("key") == b"before" and len(list(store.folder.iterdir())) == 1


def test_the_first_evaluation_of_a_cut_wins_and_readers_work_during_writes(tmp_path: Path) -> None:
    with Store(tmp_path / "run.sqlite") as store:
        store.add(row(1, 0.5))
        store.add(row(1, 0.9)._replace(id=2))
        with Store(tmp_path / "run.sqlite", read_only=True) as reader:
            assert [(item.id, item.loss) for item in reader.read_evaluations()] == [(1, 0.5)]
            store.add(row(3, None))
            assert [item.loss for item in reader.read_evaluations()] == [0.5, None]


def test_a_store_is_closed_when_its_block_fails(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    with pytest.raises(RunError, match="no such table"), store:
        store._read("SELECT * FROM absent")
    with pytest.raises(RunError, match="closed database"):
        store.read_evaluations()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.evalutions=5", "did you mean evaluations"),
        ("serch.evaluations=5", "did you mean search"),
        ("search.evaluations=0", "search.evaluations"),
        ("search.population=6", "multiple of 4"),
        ("budget.macs=1.5", "budget.macs"),
        ("budget.macs=[0.5,0.2]", "the smaller ratio comes first"),
        ("budget.macs=.nan", "budget.macs"),
        ("budget.macs=null", "no budget is given"),
        ("model.train=null", "no weights"),
        ("fitness.fidelity=perfect", "fitness.fidelity"),
        ("search", "section.field=value"),
        ("model.factory.x=1", "holds no fields"),
    ],
)
def test_a_wrong_field_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(DIGITS, [change])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words", "\x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_reach_nested_fields_and_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/somewhere")
    changes = ["search.evaluations=7", "fitness.tuning.rate=0.5", "model.weights=$PLACE/w.safetensors"]
    config: Any = load_config(DIGITS, changes)
    assert (config.search.evaluations, config.fitness.tuning.rate) == (7, 0.5)
    assert config.model.weights == "/somewhere/w.safetensors"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search": {"optimizer": "cma"}, "budget": {"macs": [0.3, 0.5]}}, "cma searches at one budget"),
        ({"search": {"optimizer": "cma", "blend": "group"}}, "with search.blend clusters or network"),
        ({"search": {"blend": "group", "population": 10}}, "multiple of 4"),
        ({"method": "legr", "criteria": {"pool": ["l1"]}}, "put it in criteria.pool"),
        ({"method": "legr", "budget": {"macs": [0.3, 0.5]}}, "searches at one budget"),
        ({"method": "torch-pruning", "budget": {"keep": 0.5}}, "needs a budget"),
    ],
)
def test_conflicting_fields_are_refused(quick: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(quick | changes, "test")


def test_a_population_need_not_be_a_multiple_of_four_without_tournaments(quick: dict[str, Any]) -> None:
    assert parse_config(quick | {"search": {"population": 10}}, "test").search.population == 10


def test_the_old_name_of_the_optimizer_field_is_accepted() -> None:
    tree = load_config(None).model_dump(mode="json")
    del tree["search"]["optimizer"]
    assert (
        parse_config({**tree, "search": {**tree["search"], "optimiser": "random"}}, "old").search.optimizer == "random"
    )
    assert load_config(None, ["search.optimiser=random"]).search.optimizer == "random"
    with pytest.raises(ConfigError, match=r"search.optimiser is not a known field"):
        parse_config({**tree, "search": {**tree["search"], "optimiser": "cma", "optimizer": "random"}}, "both")
