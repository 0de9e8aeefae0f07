"""Drive the command line in the test's process."""

from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.main import main


def run(verb: str, folder: Path, *words: Any) -> None:
    main([verb, *map(str, words), "--runs", str(folder)])


def refused(capsys: Any, verb: str, folder: Path, *words: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(verb, folder, *words)
    assert ended.value.code == 2
    said: str = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said
