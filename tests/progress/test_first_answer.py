"""The first usable network is reported while the search continues, and can be exported at once."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.main import main
from blendsearch.events import Evaluated, Event, GenerationDone, RunCreated
from blendsearch.progress.first_answer import PATIENCE, FirstAnswer

GOLDEN = Path(__file__).parents[1] / "golden" / "runs" / "killed-cma"
RESULT: dict[str, Any] = {"origin": "evolved", "loss": 1.0, "error": 0.5, "macs_ratio": 0.5, "params_ratio": 0.5}
EVALUATED = Evaluated(id=1, seconds=1.0, failure="", busy=1, workers=1, **RESULT)
DONE = GenerationDone(generation=1, evaluations=8, seconds=1.0, front=1, hypervolume=0.5, best_loss=1.0)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Provide a run that was killed in its third generation, as a search leaves it while it continues."""
    shutil.copytree(GOLDEN, tmp_path / "runs" / "killed-cma")
    return tmp_path / "runs" / "killed-cma"


def receive(path: Path, *events: tuple[float, Event]) -> list[list[str]]:
    """Return the lines after each event, which comes at a time in seconds."""
    now = [0.0]
    view = FirstAnswer(lambda: now[0])
    found = [view.receive(RunCreated(run=path.name, path=str(path)))]
    for time, event in events:
        now[0] = time
        found.append(view.receive(event))
    return found


def test_it_follows_the_first_generation_once(stopped: Path) -> None:
    created, early, first, second = receive(stopped, (1.0, EVALUATED), (2.0, DONE), (3.0, DONE))
    assert created == early == second == []
    assert first[0].startswith("The best network found is network 13") or first[0].startswith("So far, take")


def test_it_does_not_wait_for_a_long_generation(stopped: Path) -> None:
    assert [bool(lines) for lines in receive(stopped, (PATIENCE - 1, EVALUATED), (PATIENCE + 1, EVALUATED))] == [
        *(False, False, True),
    ]


def test_a_run_without_results_gives_no_line(tmp_path: Path) -> None:
    assert receive(tmp_path / "absent", (1.0, DONE))[-1] == []


def test_its_command_exports_the_network_of_an_unfinished_search(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (_, lines) = receive(Path("runs") / stopped.name, (1.0, DONE))
    words = shlex.split(lines[1])
    main(words[1:])
    assert (tmp_path / words[words.index("--out") + 1] / "weights.safetensors").exists()


def test_a_search_prints_it_before_its_end(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["search", str(config_file), "--runs", str(tmp_path / "runs"), "--name", "one"])
    lines = capsys.readouterr().out.splitlines()
    places = [place for place, line in enumerate(lines) if "blendsearch export one" in line]
    generations = [place for place, line in enumerate(lines) if line.startswith("generation")]
    assert len(places) == 2 and generations[0] < places[0] < generations[1] < places[1]
