"""The live page in a real browser: what is seen, how soon, by keyboard too, and that all of it is from here."""

import json
import os
import shutil
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api")
from axe_playwright_python.sync_playwright import Axe
from browsing import Opener, needs_chromium, picture
from playwright.sync_api import Page, expect
from serving import TOKEN, Served, served

from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store

pytestmark = needs_chromium
HOSTILE = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\'&'
MANY = 10_000
PAGES = {
    "/": "#rows a",
    "/runs/one": "#front button",
    "/start": "#config",
    "/compare?one=one&other=hostile": "#facts tr",
}
"""Pages, and what each of them shows once it is there."""


def is_quiet() -> bool:
    """Return whether times are this page's, and not those of other work on the machine."""
    return os.getloadavg()[0] < 1.5 * (os.cpu_count() or 1)


@pytest.fixture(scope="module")
def runs(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and, of two networks, ``few``; ``many`` of 10,000, with large genomes; ``hostile``, whose names bite."""
    folder = tmp_path_factory.mktemp("pages") / "runs"
    shutil.copytree(searched, folder)
    for name in ("many", "hostile"):
        shutil.copytree(folder / "one", folder / name)
        (folder / name / "finished.json").unlink()
    _fill(folder / "many")
    shutil.copytree(folder / "one", folder / "few")
    with sqlite3.connect(folder / "few" / "run.sqlite") as connection:
        connection.execute("DELETE FROM evaluations WHERE id > 2")
    facts = json.loads((folder / "hostile" / "run.json").read_text())
    facts["structure"]["groups"][0]["name"] = facts["structure"]["criteria"][0] = HOSTILE
    facts["config"]["model"]["factory"] = facts["config"]["data"]["dataset"] = HOSTILE
    (folder / "hostile" / "run.json").write_text(json.dumps(facts))
    with sqlite3.connect(folder / "hostile" / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET origin = ? WHERE origin != 'dense'", (HOSTILE,))
    return folder


def _fill(run: Path) -> None:
    """More evaluations in the place of a longer search; the rows it has are where they are from."""
    rng = np.random.default_rng(0)
    facts = json.loads((run / "run.json").read_text())
    facts["config"]["search"]["evaluations"] = MANY + 1000
    (run / "run.json").write_text(json.dumps(facts))
    store = Store(run / "run.sqlite")
    last = store.read_evaluations()[-1]
    last = last._replace(genome=json.dumps({**json.loads(last.genome), "length": "x" * 6000}))
    store.close()
    rows = [_another(last, number, float(rng.uniform(0.2, 1.0))) for number in range(last.id + 1, MANY + 1)]
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.executemany(f"INSERT INTO evaluations VALUES ({', '.join('?' * len(last))})", rows)


def _another(row: Evaluation, number: int, error: float) -> Evaluation:
    return row._replace(id=number, digest=f"{number:064x}", generation=number // 24, error=error, loss=2 * error)


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Served]:
    with served(runs) as found:
        yield found


def painted(page: Page) -> bool:
    """Whether the chart is there with points."""
    return bool(page.evaluate("document.querySelector('#plot svg .marks use') !== null"))


def test_the_way_in_is_the_token(at: Opener, server: Served) -> None:
    page = at("/", token="")
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("the token is wrong")).to_be_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="one", exact=True)).to_be_visible()
    page = at("/")
    expect(page.get_by_role("link", name="many")).to_be_visible()
    assert TOKEN not in page.url and TOKEN not in page.evaluate("document.cookie + JSON.stringify({...localStorage})")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()


def test_two_networks_have_no_chart(at: Opener) -> None:
    page = at("/runs/few")
    expect(page.get_by_role("heading", name="On the front")).to_be_visible()
    expect(page.locator("#front tr").nth(1)).to_be_visible()
    expect(page.get_by_role("heading", name="The best network so far")).to_be_hidden()
    expect(page.get_by_role("heading", name="Hypervolume")).to_be_hidden()


def test_ten_thousand_evaluations_are_there_in_two_seconds(at: Opener, server: Served) -> None:
    warm = at("/")  # the way in, and what a browser keeps
    expect(warm.get_by_role("link", name="many")).to_be_visible()
    session = warm.context.new_cdp_session(warm)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda facts: sizes.append(facts["encodedDataLength"]))
    took = []
    for _ in range(3):  # what other work takes is not the page's: the least of three
        sizes.clear()
        start = time.perf_counter()
        warm.goto(server.url + "/runs/many", wait_until="commit")
        while not (warm.locator("#done").text_content() == str(MANY) and painted(warm)):
            assert time.perf_counter() - start < 60
        took.append(time.perf_counter() - start)
        if took[-1] < 2:
            break
    seconds = min(took)
    kept = sum(warm.evaluate("performance.getEntries().map((entry) => entry.encodedBodySize ?? 0)"))
    print(f"\n{MANY} evaluations open in {seconds:.2f} s; {sum(sizes) / 1000:.0f} kB sent, {kept / 1000:.0f} kB in all")
    assert kept < 400_000 and seconds < (8 if is_quiet() else 60)


def test_a_running_search_is_followed_within_a_second(at: Opener, runs: Path) -> None:
    page = at("/runs/many")
    expect(page.locator("#done")).to_have_text(str(MANY))
    run = open_run(runs, "many")
    store = Store(run.path / "run.sqlite")  # the digests of its copies are not those of their cuts
    last = next(row for row in reversed(store.read_evaluations()) if row.id)
    delays = []
    with run.lock():
        expect(page.locator("#state")).to_have_text("running")
        for number in range(MANY + 1, MANY + 21):
            store.add(_another(last, number, 0.15 if number == MANY + 20 else 0.5))
            start = time.perf_counter()
            while page.locator("#done").text_content() != str(number):
                assert time.perf_counter() - start < 60
            delays.append(time.perf_counter() - start)
    store.close()
    print(
        f"\nan evaluation is shown {statistics.median(delays):.2f} s after it was stored, at most {max(delays):.2f} s"
    )
    assert statistics.median(delays) < (1 if is_quiet() else 20)
    expect(page.locator("#best-id")).to_have_text(f"network {MANY + 20}")
    expect(page.locator("#state")).to_have_text("stopped")


def test_a_network_is_pointed_at_and_opened(at: Opener) -> None:
    page = at("/runs/one")
    expect(page.locator("#front tr")).not_to_have_count(0)
    expect(page.locator("#plot svg")).to_be_visible()
    box = page.locator("#plot svg").bounding_box()
    assert box is not None
    tip = page.locator("#plot .tip")
    for left in range(80, int(box["width"]), 12):
        for top in range(60, 440, 24):
            page.mouse.move(box["x"] + left, box["y"] + top)
            if tip.is_visible():
                break
        if tip.is_visible():
            break
    words = tip.text_content() or ""
    assert "accuracy, loss" in words
    page.mouse.click(box["x"] + left, box["y"] + top)
    expect(page.locator("#network-h")).to_have_text(f"Network {words.partition(':')[0]}")
    expect(page.get_by_text("Channels kept")).to_be_visible()
    expect(page.locator("#network-body").get_by_text("stem.0")).to_be_visible()
    picture(page, "run")


def test_all_of_it_goes_by_keyboard(at: Opener) -> None:
    page = at("/")
    expect(page.get_by_role("link", name="one", exact=True)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "one":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#front tr")).not_to_have_count(0)
    expect(page.locator("#plot svg")).to_be_visible()
    page.locator("#report").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "plot":
            break
    expect(page.locator("#plot")).to_be_focused()
    page.keyboard.press("ArrowLeft")  # from the right: the best
    tip = page.locator("#plot .tip").text_content() or ""
    assert page.locator("#plot [aria-live]").text_content() == tip
    page.keyboard.press("Enter")
    expect(page.locator("#network-h")).to_have_text(f"Network {tip.partition(':')[0]}")
    page.keyboard.press("Escape")
    expect(page.locator("#plot .tip")).to_be_hidden()
    page.locator("#front button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#network-h")).to_have_text("The dense network")


@pytest.mark.parametrize(
    ("scheme", "width", "paths"),
    [
        ("light", 1280, list(PAGES)[:2]),
        ("dark", 390, list(PAGES)[2:]),
        pytest.param("light", 1280, list(PAGES)[2:], marks=pytest.mark.slow),
        pytest.param("dark", 390, list(PAGES)[:2], marks=pytest.mark.slow),
    ],
)
def test_no_page_has_what_axe_finds(at: Opener, scheme: str, width: int, paths: list[str]) -> None:
    found = {}
    for path in paths:
        page = at(path, width, scheme)
        expect(page.locator(PAGES[path]).first).to_be_visible()
        if path == "/runs/one":
            page.locator("#front button").last.click()
            expect(page.locator("#network-body .bar").first).to_be_visible()
            for summary in page.locator("summary").all():
                summary.click()
            page.get_by_role("button", name="Fork", exact=True).click()
            expect(page.get_by_label("Changes")).to_be_focused()
        if path.startswith(("/runs/", "/compare")):
            expect(page.locator("#plot svg")).to_be_visible()
        if path == "/start":
            expect(page.locator("#config")).not_to_have_value("")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
        if path.startswith("/compare"):
            expect(page.locator("#plot svg text").filter(has_text="lowest loss so far")).to_have_count(2)
        picture(page, f"{path.partition('?')[0].strip('/').replace('/', '-') or 'runs'}-{scheme}-{width}")
        results = Axe().run(page)
        found[path] = [f"{item['id']}: {item['nodes'][0]['html'][:80]}" for item in results.response["violations"]]
    print(f"\naxe, {scheme}, {width} px: {sum(map(len, found.values()))} violations on {len(found)} pages")
    assert not any(found.values()), found


def test_two_runs_are_compared(at: Opener) -> None:
    page = at("/compare?one=one&other=hostile")
    expect(page.locator("#names")).to_contain_text("hostile")
    page.get_by_label("Other").select_option("many")
    expect(page.locator("#facts tr").filter(has_text="evaluations").locator("td").last).to_contain_text("11000")
    for name in ("one", "many"):
        expect(page.locator("#plot svg text").filter(has_text=f"{name}: lowest loss so far")).to_have_count(1)


def test_a_run_without_accuracies_is_shown_by_its_losses(at: Opener, runs: Path, server: Served) -> None:
    if not (runs / "losses").exists():
        shutil.copytree(runs / "one", runs / "losses")
    facts = json.loads((runs / "losses" / "run.json").read_text())
    facts["structure"]["error"] = False
    (runs / "losses" / "run.json").write_text(json.dumps(facts))
    best = server.ask("runs/losses/course")["state"]["best"]
    page = at("/runs/losses")
    expect(page.locator("#best")).to_have_text(f"{best['loss']:.4f}")
    expect(page.locator("#plot svg text").filter(has_text="loss on validation data")).to_have_count(1)
    page.locator("#plot").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#plot .tip")).to_contain_text("loss")
    assert "accuracy" not in (page.locator("#plot .tip").text_content() or "")
    picture(page, "losses")


def test_names_that_bite_are_text(at: Opener) -> None:
    page = at("/runs/hostile")
    expect(page.locator("#under")).to_contain_text(HOSTILE)
    page.locator("#front button").last.click()
    expect(page.locator("#network-body th").get_by_text(HOSTILE)).not_to_have_count(0)
    listed = at("/")
    expect(listed.locator("#rows").get_by_text(HOSTILE)).not_to_have_count(0)
    for shown in (page, listed, at("/compare?one=hostile&other=one")):
        shown.wait_for_timeout(200)
        assert shown.locator("img").count() == 0 and shown.evaluate("window.hacked === undefined")
        assert shown.locator("script").count() == 1


def test_a_search_is_started_and_stopped_from_the_page(at: Opener, quick: dict[str, Any]) -> None:
    page = at("/start")
    expect(page.locator("#config")).to_have_value(open_example())
    page.locator("#config").fill("model: {factory: 'os:system'}\ndata: {dataset: digits}\nbudget: {macs: 0.5}")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("config: the model has no weights")
    quick["search"] = {"evaluations": 100_000, "population": 8}
    quick["fitness"] |= {"fidelity": "tuned", "tuning": {"epochs": 1}}
    page.locator("#config").fill(yaml.safe_dump(quick))
    page.get_by_label("Name").fill("from-the-page")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/runs/from-the-page")
    expect(page.locator("#state")).to_have_text("starting")
    expect(page.locator("#state")).to_have_text("running", timeout=240_000)
    expect(page.locator("#done")).not_to_have_text("0", timeout=60_000)
    expect(page.locator("#title")).to_contain_text("50 % of MACs")
    expect(page.locator("#output")).to_contain_text("criteria scored")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("stopped", timeout=60_000)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.locator("#output")).to_contain_text("blendsearch resume from-the-page")


def open_example() -> str:
    from blendsearch.runs.config.loading import DIGITS

    return DIGITS.read_text(encoding="utf-8")
