"""Recorded outputs and pictures of the docs: made by the code that is here."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "docs" / "recorded"


def test_the_tour_shows_the_current_code() -> None:
    sys.path.insert(0, str(RECORDED))
    try:
        from tour import STAMP, compute_digest
    finally:
        sys.path.remove(str(RECORDED))
    assert json.loads(STAMP.read_text())["shown"] == compute_digest(), (
        "outputs and pictures of docs/tour.md are older than the code: run python docs/recorded/tour.py"
    )
