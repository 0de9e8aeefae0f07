"""The best of a search judged again on validation images that it never saw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.results.comparison import summarize_comparison
from blendsearch.results.follower import Follower
from blendsearch.results.history import read_history
from blendsearch.results.ladder_summary import compute_promotion_cost
from blendsearch.results.summary import select_network
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config_changes import change_config
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut

UNUSED = {"share": 0.3, "fidelity": "recalibrated", "images": "unused"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """A folder with one run that saw 100 validation images and judged its best on the other 169."""
    folder = tmp_path_factory.mktemp("promotion")
    tree = small_config | {"data": small_config["data"] | {"val_limit": 100}, "promote": UNUSED}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    main(["search", str(folder / "config.yaml"), "--runs", str(folder), "--name", "one"])
    return folder


def test_what_is_judged_again_is_judged_on_the_images_that_were_left_out(runs: Path) -> None:
    run = open_run(runs, "one")
    store = run.open_store(read_only=True)
    problem = restore(run)
    splits = problem.splits
    assert splits.unused is not None and len(splits.val) == 100
    seen, unseen = (
        {image.tobytes() for image in part.load_images(np.arange(len(part)))} for part in (splits.val, splits.unused)
    )
    assert len(seen) == 100 and not seen & unseen
    rows = {row.digest: row for row in store.read_evaluations()}
    again = store.read_promotions()
    assert len(again) > round(0.3 * (len(rows) - 1))
    dense = rows.pop(next(row.digest for row in rows.values() if row.id == 0))
    assert dense.digest in {item.digest for item in again}
    for item in [item for item in again if item.digest != dense.digest][:3]:
        cut = unpack_cut(rows[item.digest].cut, problem.structure.maps.channels)
        by_hand = problem.evaluator.evaluate(make_request(cut, "recalibrated", problem.config.seed, "unused"))
        assert (item.loss, item.error) == (by_hand.loss, by_hand.error) != (rows[item.digest].loss, 0)


def test_the_cost_of_evaluating_again_is_counted(runs: Path) -> None:
    run = open_run(runs, "one")
    store = run.open_store(read_only=True)
    rows, again = store.read_evaluations(), store.read_promotions()
    assert run.structure["images"]["val"] == 100 and run.structure["images"]["unused"] == 169
    images = 169 + run.config.fitness.recalibration_images
    pruned = {row.digest: row.macs for row in rows if row.id}
    macs = sum(pruned[item.digest] for item in again if item.digest in pruned)
    assert compute_promotion_cost(run, rows, again) == images * macs > 0
    assert compute_promotion_cost(run, rows, []) == 0


def test_what_was_found_is_the_best_by_that_judgement(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(runs, "one")
    store = run.open_store(read_only=True)
    dense = next(row for row in store.read_evaluations() if row.id == 0)
    again = {item.digest: item for item in store.read_promotions()}
    of_dense = again.pop(dense.digest)
    best = min(again.values(), key=lambda item: item.loss)
    picked = select_network(run, "best")
    assert picked.digest == best.digest and select_network(run, str(picked.id)) == picked
    assert best.digest in store.read_tests()
    front = Follower(run).poll().front
    assert front is not None and front.best == picked.id
    assert picked in read_history(run).front
    main(["front", "one", "--runs", str(runs), "--json"])
    found = json.loads(capsys.readouterr().out)
    front = found["front"]
    assert found["dense"][0]["val_loss"] == of_dense.loss != dense.loss
    assert {row["cut"] for row in front} <= again.keys()
    told = next(row for row in front if row["cut"] == best.digest)
    assert told["val_loss"] == best.loss and told["val_accuracy"] == 1 - best.error
    assert found["fidelities"][0]["dearer"] == "recalibrated, unused images"
    own = summarize_comparison(run).methods[0].found[0]
    assert own.cut == best.digest and own.evaluations == 30
    assert own.test_accuracy is not None


def test_over_a_span_the_front_is_promoted_first(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quick["budget"] = {"macs": [0.2, 0.6]}
    quick["data"]["val_limit"] = 100
    quick["promote"] = UNUSED | {"share": 0.4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path), "--name", "wide"])
    capsys.readouterr()
    store = open_run(tmp_path, "wide").open_store(read_only=True)
    rows = [row for row in store.read_evaluations() if row.id]
    again = {item.digest for item in store.read_promotions()}
    on_front = [
        row
        for row in rows
        if not any(
            other.macs <= row.macs and other.loss <= row.loss and (other.macs, other.loss) != (row.macs, row.loss)
            for other in rows
            if other.loss is not None and row.loss is not None
        )
    ]
    assert len(on_front) > 2 and {row.digest for row in on_front} <= again
    main(["front", "wide", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)["front"]
    assert {row["cut"] for row in found} <= again and len({row["macs_ratio"] for row in found}) > 1


def test_a_finished_run_may_judge_its_best_again_later(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quick["data"]["val_limit"] = 100
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path), "--name", "one"])
    with pytest.raises(ConfigError, match="were tested as recalibrated"):
        change_config(open_run(tmp_path, "one"), ["promote.share=0.2"])
    words = ["resume", "one", "--runs", str(tmp_path)]
    changes = [f"--set=promote.{name}={value}" for name, value in UNUSED.items()]
    main([*words, *changes])
    run = open_run(tmp_path, "one")
    whole = next(row.digest for row in run.open_store(read_only=True).read_evaluations() if row.id == 0)
    again = [item for item in run.open_store(read_only=True).read_promotions() if item.digest != whole]
    assert again and select_network(run, "best").digest == min(again, key=lambda item: item.loss).digest
    with pytest.raises(ConfigError, match="promoted with the old value"):
        change_config(run, ["promote.images=same", "promote.fidelity=tuned"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"promote": {"share": 0.1, "fidelity": "recalibrated"}}, "would repeat the same evaluations"),
        ({"promote": UNUSED}, "set data.val_limit"),
    ],
)
def test_nothing_new_to_learn_is_refused(quick: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(quick | changes, "a test")


def test_a_limit_that_leaves_nothing_out_is_refused(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quick["data"]["val_limit"] = 5000
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick | {"promote": UNUSED}))
    with pytest.raises(SystemExit) as stopped:
        main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path), "--name", "none"])
    assert stopped.value.code == 2
    assert "leaves none of the 269 validation images out" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
