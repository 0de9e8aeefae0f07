"""`blendsearch criteria --map`: what a search would cluster, printed and drawn; refused before anything takes time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blendsearch.blend.clustering import cluster_groups
from blendsearch.blend.correlation_map import build_correlation_map
from blendsearch.cli.main import main
from blendsearch.criteria.table import ExcludedCriterion, ScoreTable
from blendsearch.errors import RunError
from blendsearch.results.report.criteria_map_picture import draw_criteria_map
from blendsearch.results.report.output_file import open_draft


def criteria(*words: object) -> None:
    main(["criteria", *(str(word) for word in words)])


def colours(path: Path) -> int:
    with Image.open(path) as image:
        image.load()
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.fixture
def nothing_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("scored, or loaded what scoring needs")

    for place in (
        "builder.compute_score_table",
        "inputs.load_splits",
        "inputs.build_model",
        "assembly.trace_structure",
    ):
        monkeypatch.setattr(f"blendsearch.pipeline.problem.{place}", never)


def test_a_config_is_mapped(config_file: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    criteria(config_file, "--map")
    assert colours(tmp_path / "criteria-map.png") > 20
    said = capsys.readouterr().out
    assert "4 criteria" in said and "stem.0" in said and "digits_net (width 8)" in said and "criteria-map.png" in said
    criteria(config_file, "--map", "other.svg", "--json", "--set", "criteria.clusters=silhouette")
    facts = json.loads(capsys.readouterr().out)
    assert sorted(facts["order"]) == sorted(facts["criteria"]) == ["apoz", "bn_gamma", "l1", "taylor_gate"]
    assert [name for item in facts["clusters"] for name in item["members"]] == facts["order"]
    assert all(item["centre"] in item["members"] for item in facts["clusters"])
    assert np.shape([facts["average"], *(group["correlation"] for group in facts["groups"])]) == (5, 4, 4)
    assert (tmp_path / "other.svg").read_text().lstrip().startswith("<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "criteria-map.png", "other.svg"]


def test_a_run_is_mapped_as_it_was_clustered_without_data_or_model(
    config_file: Path, tmp_path: Path, capsys: Any, request: pytest.FixtureRequest
) -> None:
    runs, picture = tmp_path / "runs", tmp_path / "map.png"
    main(["search", str(config_file), "--runs", str(runs), "--name", "one", "--set", "search.evaluations=4"])
    capsys.readouterr()
    criteria(config_file, "--map", picture, "--json")
    before = json.loads(capsys.readouterr().out)
    request.getfixturevalue("nothing_is_scored")
    criteria("--runs", runs, "--run", "one", "--map", picture, "--json")
    facts = json.loads(capsys.readouterr().out)
    stored = json.loads((runs / "one" / "run.json").read_text())["structure"]
    names = stored["criteria"]
    assert [group["clusters"] for group in facts["groups"]] == [
        [[names[row] for row in members] for members in clusters] for clusters in stored["clusters"]
    ]
    assert facts == before  # mapping a config scores just as searching it does
    assert colours(picture) > 20
    criteria("--runs", runs, "--run", "one", "--json")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names


@pytest.mark.usefixtures("nothing_is_scored")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--map", "map.gif"], ".png, .svg, .pdf"),
        (["--map", "config.yaml"], ".png, .svg, .pdf"),
        (["--map", "absent/map.png"], "absent is not a folder"),
        (["--map", "config.yaml/map.png"], "config.yaml is not a folder"),
        (["--map", "taken.png"], "a folder has that name"),
        (["--map", "--run", "absent"], "no run"),
        (["--map", "--run", "absent", "--set", "seed=1"], "--run has its own config"),
        (["absent.yaml", "--map"], "absent.yaml cannot be read"),
        (["--set", "criteria.pool=[tailor_gate]"], "did you mean"),
    ],
)
def test_what_cannot_be_mapped_is_refused_before_scoring(
    words: list[str], message: str, config_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(SystemExit) as caught:
        criteria(*words)
    said = capsys.readouterr().err.strip()
    assert caught.value.code == 2
    assert message in said and "\n" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "taken.png"]


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # to root every folder is open
    with pytest.raises(SystemExit):
        criteria("--map", tmp_path / "map.png")
    assert "no permission" in capsys.readouterr().err


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_text("before")

    def fill() -> None:
        with open_draft(path) as draft:
            draft.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        fill()
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_criteria_of_a_config_are_listed(config_file: Path, capsys: Any) -> None:
    criteria(config_file, "--json")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["l1", "bn_gamma", "apoz", "taylor_gate"]


@pytest.mark.parametrize(("criteria", "groups"), [(1, 1), (2, 1), (15, 32)], ids=["one", "two", "many"])
def test_any_number_of_criteria_and_groups_is_drawn(criteria: int, groups: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(criteria, 8)) for _ in range(groups)]
    left_out = []
    if criteria > 2:
        scores[3][1] = np.nan
        left_out = [ExcludedCriterion("$c_1", "block1.layer3.a_very_long_name_of_a_convolution", "does not apply")]
    table = ScoreTable(
        tuple(f"$c_{row}" for row in range(criteria)),  # a dollar sign begins no formula
        tuple(f"block1.layer{group}.a_very_long_name_of_a_convolution" for group in range(groups)),
        tuple(scores),
        tuple(left_out),
    )
    found = build_correlation_map(table, cluster_groups(table, "kmeans", 3, 0), "kmeans", 3, 0)
    draw_criteria_map(found, "net", tmp_path / "map.png")
    assert colours(tmp_path / "map.png") > 20
    if criteria == 2:
        draw_criteria_map(found, "net", tmp_path / "again.png")
        assert (tmp_path / "map.png").read_bytes() == (tmp_path / "again.png").read_bytes()
