"""What a page shows where there is little to show: no runs, no such run, a wrong token, a search that starts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api")
from browsing import Opener, needs_chromium
from playwright.sync_api import expect
from serving import Served, served

pytestmark = needs_chromium


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched / "one", tmp_path / "runs" / "one")
    return tmp_path / "runs"


@pytest.fixture
def server(runs: Path) -> Iterator[Served]:
    with served(runs) as found:
        yield found


def test_a_workspace_without_runs_has_no_table(at: Opener, runs: Path) -> None:
    shutil.rmtree(runs / "one")
    page = at("/")
    expect(page.locator("#none")).to_have_text(
        "There are no runs yet: start a search, or run blendsearch search in a terminal."
    )
    for part in ("#table", "#bar", "#filter"):
        expect(page.locator(part)).to_be_hidden()


def test_a_wrong_token_is_named(at: Opener) -> None:
    page = at("/", token="another-token-than-the-server-has")
    expect(page.get_by_role("alert")).to_contain_text("the token is wrong")
    expect(page.locator("#out")).to_be_hidden()


def test_a_run_that_is_not_there_leads_to_all_runs(at: Opener) -> None:
    page = at("/runs/nothing")
    expect(page.locator("#alert")).to_have_text("no run is called 'nothing'")
    expect(page.locator("#columns")).to_be_hidden()
    page.get_by_role("link", name="All runs").click()
    expect(page.locator("#rows tr")).to_have_count(1)


def test_cards_are_about_the_network(at: Opener, server: Served) -> None:
    answer = server.ask("runs/one/front")["answer"]
    best = next(row for row in answer["rows"] if "best" in row["mark"])
    page = at("/runs/one")
    cards = page.locator("#found")
    expect(cards).to_contain_text(f"{100 * best['macs_ratio']:.1f} %")
    expect(cards).to_contain_text("size, float32")
    expect(cards).to_contain_text(f"{100 * best['test_accuracy']:.2f} %")
    expect(page.locator("#tiles")).not_to_have_attribute("open", "")  # the search is over
    expect(page.locator("#done")).to_be_hidden()
    page.get_by_text("The search in numbers").click()
    expect(page.locator("#done")).to_have_text("30")
