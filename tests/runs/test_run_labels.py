"""Labels of runs: tags and archived runs, on the command line and in ``labels.json``."""

import json
import shutil
from pathlib import Path

import pytest

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError, RunError
from blendsearch.results.listing import RunLister
from blendsearch.runs.run_labels import LABELS_FILE, MAX_TAGS, Labels, change_labels, read_labels


def test_tags_are_added_removed_and_sorted(tmp_path: Path) -> None:
    assert read_labels(tmp_path) == Labels()
    change_labels(tmp_path, add=["paper", " first  try ", "paper"], archived=True)
    assert read_labels(tmp_path) == Labels(("first try", "paper"), True)
    assert change_labels(tmp_path, remove=["paper", "absent"]) == Labels(("first try",), True)
    assert change_labels(tmp_path, archived=False) == read_labels(tmp_path) == Labels(("first try",))
    assert json.loads((tmp_path / LABELS_FILE).read_text()) == {"tags": ["first try"], "archived": False}
    assert [path.name for path in tmp_path.iterdir()] == [LABELS_FILE]


@pytest.mark.parametrize("tag", ["", "-x", "<b>", "a,b", "x" * 41, "a\x00b", "\ud800"])
def test_what_is_no_tag_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match="is not a tag"):
        change_labels(tmp_path, add=[tag])
    with pytest.raises(ConfigError, match=f"at most {MAX_TAGS} tags"):
        change_labels(tmp_path, add=[f"t{number}" for number in range(MAX_TAGS + 1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tags": "x", "archived": false}',
        '{"tags": [1], "archived": false}',
        '{"tags": ["<b>"], "archived": true}',
        '{"tags": [], "archived": 1}',
        "[" * 100_000,
        "\xff",
        '{"tags": ["' + "x" * 100_000 + '"], "archived": true}',
    ],
)
def test_damaged_labels_are_none_and_can_be_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / LABELS_FILE).write_text(text, encoding="latin-1")
    assert read_labels(tmp_path) == Labels()
    assert change_labels(tmp_path, add=["x"]) == read_labels(tmp_path) == Labels(("x",))


def test_labels_are_not_written_through_a_link(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "other").write_text("kept")
    (run / LABELS_FILE).symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match="symbolic link"):
        change_labels(run, add=["x"])
    assert (tmp_path / "other").read_text() == "kept"


def test_a_run_is_tagged_and_archived(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(searched, tmp_path / "runs")
    lister, runs = RunLister(tmp_path / "runs"), ["--runs", str(tmp_path / "runs")]
    (row,) = lister.list_runs()
    assert row.tags == () and not row.archived and row.changed is not None
    capsys.readouterr()
    main(["tag", "one", "paper", "first try", *runs])
    assert capsys.readouterr().out == "one: first try, paper\n"
    (row,) = lister.list_runs()
    assert row.tags == ("first try", "paper") and row.state == "finished"
    main(["tag", "one", "--remove", "first try", "--archive", "--json", *runs])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["run"], facts["tags"], facts["archived"]) == ("one", ["paper"], True)
    main(["runs", *runs])
    assert capsys.readouterr().out.endswith("; 1 archived: blendsearch runs --archived\n")
    main(["runs", "--archived", *runs])
    assert "paper" in capsys.readouterr().out
    main(["runs", "--json", *runs])
    assert json.loads(capsys.readouterr().out)[0]["archived"]
    with pytest.raises(SystemExit):
        main(["tag", "absent", "x", *runs])
    assert "no run 'absent'" in capsys.readouterr().err
