"""Verbs and options for every day: versions, short budgets, latest, delete, init, schema, completion, quiet, log."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import blendsearch
from blendsearch.cli.main import main
from blendsearch.runs.config.json_schema import make_json_schema
from blendsearch.runs.config.loading import load_config, parse_config
from blendsearch.runs.default_folder import VARIABLE
from blendsearch.runs.run import open_run
from blendsearch.zoo.factory import build_model

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a working directory with two runs in ``runs``; ``single`` changed last."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("single", "digits")):
        shutil.copytree(GOLDEN / name, tmp_path / "runs" / name)
        for file in (tmp_path / "runs" / name).iterdir():
            os.utime(file, (1e9 - 1000 * age, 1e9 - 1000 * age))
    return tmp_path / "runs"


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip()


def read(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith(f"blendsearch {blendsearch.__version__}, Python 3.")


@pytest.mark.parametrize(
    ("change", "span"),
    [
        ("budget=0.3", {"macs": (0.3, 0.3)}),
        ("budget=30%", {"macs": (0.3, 0.3)}),
        ("budget=[20%, 0.5]", {"macs": (0.2, 0.5)}),
        ("budget.macs=12.5 %", {"macs": (0.125, 0.125)}),
        ("budget={macs: 50%, latency: [20%, 80%]}", {"macs": (0.5, 0.5), "latency": (0.2, 0.8)}),
    ],
)
def test_budgets_have_short_forms(change: str, span: dict[str, Any]) -> None:
    assert load_config(None, [change]).budget.get_spans() == span
    assert load_config(None, [change, "budget.round_to=8"]).budget.round_to == 8


@pytest.mark.parametrize("change", ["budget=true", "budget=150%", "budget=half", "budget.macs=0%", "budget=[]"])
def test_wrong_budgets_are_still_refused(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "budget" in refuse(capsys, "search", "--runs", str(tmp_path / "runs"), "--set", change)
    assert not (tmp_path / "runs").exists()


def test_a_budget_is_an_option_and_an_argument_in_python(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", str(config_file), "--runs", str(tmp_path), "--name", "one", "--set", "search.evaluations=4"]
    main([*words, "--budget", "40%,60%", "--quiet"])
    assert open_run(tmp_path, "one").config.budget.macs == (0.4, 0.6)
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith(("Take", "The best network found")), "quiet: no progress"
    images = np.zeros((60, 8, 8, 1), np.uint8)
    labels = np.arange(60) % 10
    data = dict.fromkeys(("train", "val", "test"), (images, labels))
    short: dict[str, Any] = {"evaluations": 4, "criteria": ["l1"], "progress": False, "runs": tmp_path / "p"}
    found = blendsearch.search(build_model("digits_net", {"width": 8}), **data, budget="60%", **short)
    assert found.run.config.budget.macs == 0.6 and blendsearch.open("latest", runs=tmp_path / "p").name == found.name


def test_the_latest_run_has_a_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(capsys, "front", "latest")["run"] == "single"
    os.utime(runs / "digits" / "run.sqlite")
    assert read(capsys, "status", "latest")["run"] == "digits"
    assert "has none" in refuse(capsys, "front", "latest", "--runs", "elsewhere")


def test_the_folder_of_runs_is_a_variable(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(runs, runs.parent / "other")
    monkeypatch.setenv(VARIABLE, "other")
    assert [row["run"] for row in read(capsys, "runs")] == ["digits", "single"]
    assert "--runs" not in read(capsys, "front", "single")["answer"]["command"]


def test_runs_are_deleted_after_a_confirmation(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--yes" in refuse(capsys, "delete", "single")
    assert "no run 'absent'" in refuse(capsys, "delete", "single", "absent", "--yes")
    with open_run(runs, "single").lock():
        assert "being searched" in refuse(capsys, "delete", "single", "--yes")
    assert sorted(path.name for path in runs.iterdir()) == ["digits", "single"]
    (runs / "digits" / "run.json").write_text("{")  # damaged runs can be deleted too
    assert read(capsys, "delete", "single", "digits", "--yes")["deleted"] == ["single", "digits"]
    assert not list(runs.iterdir())


def test_a_pick_is_the_second_word_or_an_option(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = read(capsys, "show", "single")["id"]
    assert (
        read(capsys, "show", "single", "best")["id"] == read(capsys, "show", "single", "--pick", "best")["id"] == first
    )
    assert "give one of them" in refuse(capsys, "show", "single", "best", "--pick", "knee")
    assert read(capsys, "report", "single", "--out", "page.html")["report"] == "page.html"
    main(["export", "single", "2"])
    assert (runs.parent / "single-2" / "weights.safetensors").exists()


def test_every_object_has_the_version_of_its_schema(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["runs"], ["front", "single"], ["show", "single"], ["status", "single"], ["criteria"]):
        found = read(capsys, *words)
        assert all(item["schema"] == 1 for item in (found if isinstance(found, list) else [found]))


def test_events_and_the_result_have_one_shape(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    main(["search", str(config_file), "--runs", str(tmp_path), "--set", "search.evaluations=4", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(list(line)[:2] == ["event", "schema"] for line in lines)
    assert lines[-1]["event"] == "result" and lines[-1]["answer"]["rows"]


def test_the_schema_accepts_what_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["schema"])
    schema = json.loads(capsys.readouterr().out)
    assert schema == make_json_schema() and schema["properties"]["model"] and "seed" in schema["properties"]
    jsonschema = pytest.importorskip("jsonschema")
    digits = yaml.safe_load((Path(blendsearch.__file__).parent / "runs" / "config" / "digits.yaml").read_text())
    for budget in (0.3, "30%", ["20%", 0.5], {"macs": "50%"}, {"macs": [0.1, 0.2], "min_keep": 0.1}):
        jsonschema.validate({**digits, "budget": budget}, schema)
    for wrong in ({"budget": "half"}, {"search": {"evalutions": 3}}, {"method": "blendet"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**digits, **wrong}, schema)


def test_init_writes_a_config_that_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    main(["init", "--budget", "40%"])
    text = (tmp_path / "config.yaml").read_text()
    assert "#" in text and parse_config(yaml.safe_load(text), "config").budget.macs == 0.4
    assert "exists" in refuse(capsys, "init")
    assert "budget" in refuse(capsys, "init", "--budget", "much", "--out", "other.yaml")
    assert not (tmp_path / "other.yaml").exists()


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("digits_net", {"width": 8}),
        ("cifar_resnet", {"depth": 14, "classes": 7}),
        ("cifar_vgg16_bn", {}),
        ("torchvision:resnet18", {"num_classes": 5}),
    ],
)
def test_init_recognizes_networks(
    factory: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": build_model(factory, arguments).state_dict()}, "trained.pt")
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "photos" / part / label / "one.png")
    assert read(capsys, "init", "trained.pt", "--data", "photos")["complete"] is True
    found = parse_config(yaml.safe_load(Path("config.yaml").read_text()), "config")
    assert (found.model.factory, found.model.arguments, found.model.weights) == (factory, arguments, "trained.pt")
    assert (found.data.dataset, found.data.root) == ("image-folder", "photos")


def test_init_names_what_is_left_to_fill_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"layer.weight": torch.zeros(3, 3)}, "mine.pt")
    found = read(capsys, "init", "mine.pt")
    assert found["complete"] is False and "TODO" in Path("config.yaml").read_text()
    assert "no data" in refuse(capsys, "init", "--data", ".", "--out", "other.yaml")


def test_bash_completes_verbs_options_and_runs(runs: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None

    def complete(*words: str) -> list[str]:
        typed = " ".join(f"'{word}'" for word in words)
        lines = (
            f'source <("{sys.executable}" -m blendsearch completion bash)',
            f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}",
            '_blendsearch; echo "${COMPREPLY[@]}"',
        )
        done = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("blendsearch", "ex") == ["export"]
    assert complete("blendsearch", "export", "si") == ["single"]
    assert complete("blendsearch", "export", "single", "--o") == ["--out", "--onnx"]
    assert complete("blendsearch", "job", "st") == ["status", "stop"]


def write_completion(shell: str, folder: Path) -> Path:
    script = folder / f"completion.{shell}"
    with script.open("w") as file:
        subprocess.run([sys.executable, "-m", "blendsearch", "completion", shell], stdout=file, check=True)
    return script


def test_fish_completes_verbs_options_and_runs(runs: Path, tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    script = write_completion("fish", tmp_path)

    def complete(typed: str) -> set[str]:
        code = f"source {script}; complete -C '{typed}'"
        done = subprocess.run([fish, "--no-config", "-c", code], capture_output=True, text=True, check=True)
        return {line.partition("\t")[0] for line in done.stdout.splitlines()}

    assert complete("blendsearch ex") == {"export"}
    assert complete("blendsearch export si") == {"single"}
    assert complete("blendsearch export single --o") == {"--out", "--onnx"}
    assert complete("blendsearch job st") == {"status", "stop"}


ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; source $1; echo LOA''DED"
sleep 2
zpty -n -w shell "blendsearch $2"$'\t'
sleep 2
zpty -n -w shell $'\n'
sleep 1
while zpty -r -t shell line; do print -r -- "$line"; done
zpty -d shell
"""


@pytest.mark.parametrize(("typed", "completed"), [("exp", "export"), ("export si", "export single")])
def test_zsh_completes_verbs_and_runs(typed: str, completed: str, runs: Path, tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    script = write_completion("zsh", tmp_path)
    done = subprocess.run([zsh, "-f", "-c", ZSH, "zsh", str(script), typed], capture_output=True, text=True)
    assert "compdef" not in done.stdout and f"lendsearch {completed}" in done.stdout, done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    printed = capsys.readouterr().out
    assert "blendsearch" in printed and "export" in printed and "onnx" in printed


def test_a_search_is_logged(config_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "blendsearch"):
        main(["search", str(config_file), "--runs", str(tmp_path), "--set", "search.evaluations=4", "-q"])
    kinds = [record.event["event"] for record in caplog.records if hasattr(record, "event")]
    assert {"dense", "generation"} <= set(kinds) and "evaluated" not in kinds
