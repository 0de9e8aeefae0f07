"""The page and the report of a run in a real browser: importance, and all of it at the width of a phone."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api")
from axe_playwright_python.sync_playwright import Axe
from browsing import CUT_OFF, Opener, needs_chromium, picture
from metric_runs import METRICS, copy_with_metric
from playwright.sync_api import expect
from serving import Served, served

pytestmark = needs_chromium
SCROLLS = """() => [...document.querySelectorAll(".scroll, .tall")].filter(
  (item) => item.clientWidth && item.scrollWidth > item.clientWidth + 1
).map((item) => item.getAttribute("aria-label"))"""
"""What has to be scrolled sideways."""


@pytest.fixture(scope="module")
def runs(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run_page") / "runs"
    shutil.copytree(searched, folder)
    return folder


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Served]:
    with served(runs) as found:
        yield found


def test_the_importance_is_on_the_page(at: Opener, server: Served) -> None:
    found = server.ask("runs/one/importance")
    page = at("/runs/one")
    expect(page.get_by_role("heading", name="Importance of criteria and layers")).to_be_visible()
    tables = page.locator("#importance table")
    for place, rows in enumerate(
        (found["criteria"], *([found["clusters"]] if found["clusters"] else []), found["groups"])
    ):
        names = [row["group"] if "group" in row else ", ".join(row["members"]) for row in rows]
        expect(tables.nth(place).locator("tbody th")).to_have_text(names)
        texts = tables.nth(place).locator("tbody td:last-child").all_text_contents()
        values = [float(text.strip("()")) for text in texts]
        assert values == pytest.approx([row["rho"] for row in rows], abs=0.006)
        assert [text.startswith("(") for text in texts] == [abs(row["rho"]) < found["chance"] for row in rows]
    expect(page.locator("#importance")).to_contain_text(found["note"])
    page.locator("#importance").scroll_into_view_if_needed()
    picture(page, "importance")
    results = Axe().run(page)
    assert [item["id"] for item in results.response["violations"]] == []


def test_a_run_without_networks_has_no_importance(at: Opener, server: Served, runs: Path) -> None:
    shutil.copytree(runs / "one", runs / "few", dirs_exist_ok=True)
    with sqlite3.connect(runs / "few" / "run.sqlite") as connection:
        connection.execute("DELETE FROM evaluations WHERE id > 5")
    found = server.ask("runs/few/importance")
    assert (found["evaluations"], found["criteria"], found["groups"]) == (5, [], [])
    page = at("/runs/few")
    expect(page.locator("#answer")).to_be_visible()
    expect(page.locator("#importance")).to_be_hidden()


def test_a_report_fits_a_phone(at: Opener) -> None:
    page = at("/runs/one", 390)
    expect(page.locator("#importance table").first).to_be_visible()
    for path in ("", "/api/runs/one/report"):
        if path:
            page.goto(page.url.partition("/runs/")[0] + path)
            page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
            expect(page.locator("svg").nth(1)).to_have_attribute("viewBox", re.compile("^0 0 400 "))
            assert page.locator(".narrow svg").first.is_visible() and not page.locator(".wide svg").first.is_visible()
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate(SCROLLS) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture(page, "phone-report" if path else "phone-run")
    results = Axe().run(page)
    assert json.dumps([item["id"] for item in results.response["violations"]]) == "[]"
    page.set_viewport_size({"width": 1280, "height": 900})
    assert page.locator(".wide svg").first.is_visible() and not page.locator(".narrow svg").first.is_visible()


def test_a_metric_keeps_its_name_on_every_page(at: Opener, server: Served, runs: Path) -> None:
    for run, metric in METRICS.items():
        if not (runs / run).exists():
            copy_with_metric(runs / "one", runs / run, **metric)
        name, direction = metric["name"], f"{'higher' if metric['higher'] else 'lower'} is better"
        page = at(f"/runs/{run}", 390)
        expect(page.locator("#under")).to_contain_text(f"compared by {name}: {direction}")
        expect(page.locator("#best-id")).to_contain_text(name)
        expect(page.locator(f"#front td[data-label='val. {name}']")).not_to_have_count(0)
        expect(page.locator("#plot svg text").filter(has_text=f"{name} on validation data, {direction}")).to_have_count(
            1
        )
        expect(page.locator("#sentence")).to_contain_text(name)
        page.locator("#front button").last.click()
        expect(page.locator("#network-body dl")).to_contain_text(name)
        expect(page.get_by_label("Vertical").locator("option").nth(1)).to_have_text(name)
        assert "accuracy" not in page.locator("main").inner_text().partition("Config")[0]
        rows = page.locator(f"#front td[data-label='val. {name}']").count()
        expect(page.locator("#front td[data-label='val. loss']")).to_have_count(rows if name == "mAP" else 0)
        assert page.evaluate(CUT_OFF) == []
        picture(page, f"metric-{run}")
        best = server.ask(f"runs/{run}/course")["state"]["best"]
        value = {
            "map": f"{100 * (1 - best['error']):.2f} %",
            "psnr": f"{1 - best['loss']:.4f}",
            "rmse": f"{best['loss']:.4f}",
        }
        expect(page.locator("#best")).to_have_text(value[run])
    listed = at("/")
    for run, metric in METRICS.items():
        expect(listed.locator(f"tr[data-run='{run}']")).to_contain_text(metric["name"])
    expect(listed.locator("tr[data-run='one']")).to_contain_text("accuracy")
    sides = at("/compare?one=map&other=rmse")
    expect(sides.locator("#facts tr").filter(has_text="metric")).to_contain_text("mAP, higher is better")
    expect(sides.locator("#facts tr").filter(has_text="metric")).to_contain_text("RMSE, lower is better")
