"""The option that names the folder of runs in printed commands."""

from pathlib import Path

import pytest

from blendsearch.runs.default_folder import VARIABLE, format_option


def test_the_default_folder_needs_no_option_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert format_option(Path("runs")) == format_option(tmp_path / "runs") == ""
    assert format_option(tmp_path / "my runs") == f" --runs '{tmp_path}/my runs'"
    monkeypatch.setenv(VARIABLE, "my runs")
    assert format_option(tmp_path / "my runs") == ""
