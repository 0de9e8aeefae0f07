"""The list of runs and the choices of a chart in a real browser, also at the width of a phone."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api")
from axe_playwright_python.sync_playwright import Axe
from browsing import CUT_OFF, Opener, needs_chromium, picture
from playwright.sync_api import Page, expect
from serving import Served, served

from blendsearch.runs.run_labels import change_labels, read_labels

pytestmark = needs_chromium


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    """``one``, ``another-run-with-a-long-name``, and the archived ``old``."""
    folder = tmp_path / "runs"
    for name in ("one", "another-run-with-a-long-name", "old"):
        shutil.copytree(searched / "one", folder / name)
    change_labels(folder / "one", add=["paper"])
    change_labels(folder / "old", archived=True)
    facts = json.loads((folder / "one" / "run.json").read_text())
    facts["config"]["search"]["evaluations"] = 1000
    (folder / "one" / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def server(runs: Path) -> Iterator[Served]:
    with served(runs) as found:
        yield found


def check_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not found, [f"{item['id']}: {item['nodes'][0]['html'][:80]}" for item in found]


def test_runs_are_found_tagged_archived_and_deleted(at: Opener, runs: Path, tmp_path: Path) -> None:
    page = at("/")
    names = page.locator("#rows th a")
    expect(names).to_have_text(["another-run-with-a-long-name", "one"])
    expect(page.locator("#count")).to_have_text("2 of 3 runs, 1 archived")
    page.get_by_role("button", name="run", exact=True).click()
    expect(names).to_have_text(["one", "another-run-with-a-long-name"])
    expect(page.locator("th[aria-sort=descending]")).to_have_text("run")
    page.reload()
    expect(names).to_have_text(["one", "another-run-with-a-long-name"])  # the order is part of the address
    page.get_by_role("button", name="Search for the tag paper").click()
    expect(names).to_have_text(["one"])
    page.get_by_label("Search names").fill("nothing like it")
    expect(page.locator("#none")).to_have_text("No run matches the search.")
    page.get_by_label("Search names").fill("")

    page.get_by_role("link", name="another-run").focus()
    change_labels(runs / "another-run-with-a-long-name", add=["new"])
    expect(page.locator("#rows .tag")).to_have_text(["paper", "new"])
    expect(page.get_by_role("link", name="another-run")).to_be_focused()  # the list is updated under the focus
    change_labels(runs / "another-run-with-a-long-name", remove=["new"])
    expect(page.locator("#rows .tag")).to_have_count(1)

    page.get_by_label("Select one").check()
    page.get_by_role("button", name="Tag", exact=True).click()
    page.get_by_label("Tags, separated").fill("paper, <b>")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#tagging-alert")).to_contain_text("is not a tag")
    check_accessible(page)
    page.get_by_label("Tags, separated").fill("paper, first try")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#rows .tag")).to_have_text(["first try", "paper"])
    assert read_labels(runs / "one").tags == ("first try", "paper")

    page.get_by_role("button", name="Archive").click()
    expect(names).to_have_text(["another-run-with-a-long-name"])
    page.get_by_label("Archived runs too").check()
    expect(names).to_have_text(["one", "old", "another-run-with-a-long-name"])
    picture(page, "list-archived")
    check_accessible(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of this list").click()
    download.value.save_as(tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["one", "old", "another-run-with-a-long-name"]
    assert rows[0]["tags"] == "first try, paper" and rows[0]["asked"] == "1000"

    page.get_by_label("Select old").check()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", name="Delete old?")).to_be_visible()
    page.get_by_role("button", name="Cancel").last.click()
    expect(page.locator("#deleting")).to_be_hidden()
    assert (runs / "old").exists()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.locator("#deleting").get_by_role("button", name="Delete").click()
    expect(names).to_have_text(["one", "another-run-with-a-long-name"])
    assert not (runs / "old").exists() and (runs / "one").exists()


def test_nothing_is_cut_off_on_a_phone(at: Opener) -> None:
    for path, ready in {
        "/": "#rows a",
        "/runs/one": "#plot svg",
        "/start": "#config",
        "/compare?one=one&other=another-run-with-a-long-name": "#plot svg",
    }.items():
        page = at(path, 390)
        expect(page.locator(ready).first).to_be_visible()
        if path == "/runs/one":
            expect(page.locator("#answer")).to_be_visible()
            expect(page.locator("#plot svg")).to_have_attribute("viewBox", re.compile("^0 0 400 "))
        assert page.evaluate(CUT_OFF) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        picture(page, f"phone-{path.strip('/').partition('?')[0].replace('/', '-') or 'list'}")


def test_a_chart_has_a_choice_of_axes(at: Opener, tmp_path: Path) -> None:
    page = at("/runs/one?x=params")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.locator("#plot svg text").filter(has_text="parameters, share")).to_have_count(1)
    expect(page.get_by_label("Horizontal")).to_have_value("params")
    page.get_by_label("Horizontal").select_option("bytes of the weights")
    expect(page.locator("#plot svg text").filter(has_text="size of the float32 weights")).to_have_count(1)
    page.get_by_label("Vertical").select_option("loss")
    page.get_by_label("Log axis").check()
    expect(page.locator("#plot svg text").filter(has_text="loss on validation data")).to_have_count(1)
    assert page.url.endswith("?x=bytes&y=loss&log=true")
    page.locator("#plot").focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator("#plot .tip")
    expect(tip).to_contain_text("kB")
    picture(page, "chart-bytes")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of the chart").click()
    download.value.save_as(tmp_path / "chart.csv")
    assert (tip.text_content() or "absent") in (tmp_path / "chart.csv").read_text(encoding="utf-8")
    expect(page.locator("#answer")).to_be_visible()
    page.get_by_role("button", name="Copy the command").click()
    expect(page.locator("#copied")).to_have_text("The command is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#command").text_content()
    check_accessible(page)
