"""`show`, `front --plot` and `report`: one network taken apart, the front as a picture, a run as one page."""

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import blendsearch
from blendsearch.cli.main import main
from blendsearch.errors import RunError
from blendsearch.results.report.chart import Axis, ChartOptions, ChartPoint, ChartSeries, FrontChart
from blendsearch.results.report.chart_builder import build_front_chart
from blendsearch.results.report.figures import STYLES, draw_chart
from blendsearch.results.report.report import TEMPLATE, write_report
from blendsearch.runs.run import open_run
from blendsearch.runs.run_facts import compute_owner
from blendsearch.runs.table_layout import write_owner
from blendsearch.structure.groups import unpack_cut

VOID = {"meta", "link", "br", "hr", "img", "input"}
SPANS = ("--set", "budget.macs=[0.3, 0.6]", "--set", "search.anchors=2")


class Page(HTMLParser):
    """A page's elements by name, its text, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())


def check(text: str) -> Page:
    """What holds for every report."""
    page = Page(text)
    assert not re.search(r"""\s(?:src|srcset|action|(?:xlink:)?href)\s*=(?!"#)|url\(|@import""", text)
    assert "http://" not in text and "https://" not in text and not page.all("script")
    policy = next(item for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "") and "http" not in (policy["content"] or "")
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    names = [item["id"] for _, item in page.elements if "id" in item]
    assert len(names) == len(set(names))
    for figure in page.all("svg"):
        if figure.get("aria-hidden") != "true":
            # links inside an image would be hidden from assistive technology
            assert figure["role"] == ("group" if "<a " in _get_drawing(text, figure) else "img")
            assert {figure["aria-labelledby"], figure["aria-describedby"]} <= set(names)
    assert all(item.get("scope") in ("col", "row", "rowgroup") for item in page.all("th"))
    assert all(item["href"][1:] in names for item in page.all("a") if item["href"])
    assert len(text) < 1_000_000
    return page


def _get_drawing(text: str, attributes: dict[str, str | None]) -> str:
    start = text.index(f'aria-labelledby="{attributes["aria-labelledby"]}"')
    return text[start : text.index("</svg>", start)]


def searched(config_file: Path, runs: Path, *words: str) -> None:
    main(["search", str(config_file), "--runs", str(runs), "--name", "one", *words])


def reported(runs: Path, capsys: Any, name: str = "one") -> tuple[Page, dict[str, Any]]:
    """The page of a run, and what `front --json` says of it."""
    to = runs.parent / "page.html"
    main(["report", name, "--runs", str(runs), "--to", str(to)])
    capsys.readouterr()
    main(["front", name, "--runs", str(runs), "--json"])
    return check(to.read_text(encoding="utf-8")), json.loads(capsys.readouterr().out)


def test_one_network_is_shown_as_it_was_stored(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    searched(config_file, tmp_path / "runs")
    run = open_run(tmp_path / "runs", "one")
    store = run.open_store(read_only=True)
    rows, tests = store.read_evaluations(), store.read_tests()
    store.close()
    sizes = [group["channels"] for group in run.structure["groups"]]
    for row in (rows[0], rows[1], rows[-1]):
        capsys.readouterr()
        main(["show", "one", str(row.id), "--runs", str(tmp_path / "runs"), "--json"])
        facts = json.loads(capsys.readouterr().out)
        assert (facts["id"], facts["cut"], facts["origin"]) == (row.id, row.digest, row.origin)
        assert (facts["macs"], facts["params"], facts["val_loss"]) == (row.macs, row.params, row.loss)
        assert facts["val_accuracy"] == 1 - (row.error or 0) and facts["genome"] == json.loads(row.genome)
        assert facts["test_accuracy"] == (1 - tests[row.digest].error if row.digest in tests else None)
        parts = np.split(unpack_cut(row.cut, sum(sizes)), np.cumsum(sizes)[:-1])
        assert [group["kept"] for group in facts["groups"]] == [int(part.sum()) for part in parts]
        assert [group["channels"] for group in facts["groups"]] == sizes
        for group in facts["groups"]:
            assert (group["blend"] is None) == (row.origin == "dense")
            assert group["blend"] is None or sum(item["part"] for item in group["blend"]) == pytest.approx(1)
    main(["show", "one", "1", "--runs", str(tmp_path / "runs")])
    said = capsys.readouterr().out
    assert rows[1].origin in said and f"{rows[1].macs:,} MACs" in said and "stem.0" in said and "█" in said
    assert f"l1 {1:.0%}" in said  # the first baseline is l1 alone
    with pytest.raises(SystemExit):
        main(["show", "one", "99", "--runs", str(tmp_path / "runs")])
    assert "expected best, knee or an id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [SPANS, (), pytest.param(("--set", "search.blend=group"), marks=pytest.mark.slow)],
    ids=["span", "budget", "group"],
)
def test_a_report_says_what_the_front_says(
    words: tuple[str, ...], config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    searched(config_file, tmp_path / "runs", *words)
    page, found = reported(tmp_path / "runs", capsys)
    for row in (*found["dense"], *found["baselines"], *found["front"]):
        for field in ("macs_ratio", "params_ratio", "val_accuracy", "test_accuracy"):
            assert f"{row[field] * 100:.2f} %" in page.words, field
        assert f"{row['val_loss']:.4f}" in page.words
    best = min(found["front"], key=lambda row: row["val_loss"])
    assert f"{best['test_accuracy'] * 100:.2f} % accuracy on unseen test images" in page.words
    assert "This is one seed" in page.words and "taylor_gate" in page.words and "config.yaml" in page.words
    assert ("Hypervolume" in page.words) == (words == SPANS)
    picture = tmp_path / "front.png"
    main(["front", "one", "--runs", str(tmp_path / "runs"), "--plot", str(picture)])
    assert f"picture: {picture}" in capsys.readouterr().out
    with Image.open(picture) as image:
        assert image.width > 800
    with pytest.raises(SystemExit):
        main(["front", "one", "--runs", str(tmp_path / "runs"), "--plot", str(tmp_path / "front.gif")])


def test_finals_and_controls_stand_in_the_report(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    tuned = "finals={picks: 1, seeds: 2, tuning: {epochs: 0.2}}"
    searched(config_file, tmp_path / "runs", "--set", tuned, "--set", "search.evaluations=20")
    main(["compare", "one", "--runs", str(tmp_path / "runs"), "--controls", "random", "--seeds", "2"])
    page, found = reported(tmp_path / "runs", capsys)
    assert "After the long fine-tune" in page.words and "Comparison with controls" in page.words
    for row in found["finals"]:
        assert f"{row['test_accuracy'] * 100:.2f} % ± {row['test_spread'] * 100:.2f}" in page.words
    main(["compare", "one", "--runs", str(tmp_path / "runs"), "--controls", "none", "--json"])
    compared = json.loads(capsys.readouterr().out)
    assert compared["verdict"] in page.words
    paired = [method for method in compared["methods"] if "difference" in method]
    assert len(paired) > 2
    for method in paired:
        assert (
            f"{method['difference']['mean'] * 100:+.2f} ± {method['difference']['half_width'] * 100:.2f}" in page.words
        )
    control = open_run(tmp_path / "runs" / "one" / "controls", "random-3")
    write_report(control, tmp_path / "control.html")
    check((tmp_path / "control.html").read_text(encoding="utf-8"))


def test_an_unfinished_run_has_a_report(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    searched(config_file, tmp_path / "runs", "--set", "search.evaluations=12")
    (tmp_path / "runs" / "one" / "finished.json").unlink()
    page, _ = reported(tmp_path / "runs", capsys)
    assert "not finished" in page.words and "on validation images" in page.words
    store = open_run(tmp_path / "runs", "one").open_store()
    store._connection.execute("DELETE FROM evaluations")
    store._connection.execute("DELETE FROM generations")
    store.close()
    page, _ = reported(tmp_path / "runs", capsys)
    assert "Nothing has been evaluated yet" in page.words
    with pytest.raises(SystemExit):
        main(["front", "one", "--runs", str(tmp_path / "runs"), "--plot", str(tmp_path / "front.png")])
    assert "let it search first" in capsys.readouterr().err


@pytest.mark.parametrize("method", [pytest.param("cfbs", marks=pytest.mark.slow), "legr", "torch-pruning", "derived"])
def test_other_methods_have_reports(method: str, quick: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    del quick["criteria"]["pool"]
    short = {"evaluations": 24, "population": 4} if method == "cfbs" else {"evaluations": 4}
    short = {} if method == "derived" else short
    cheap = {"fidelity": "recalibrated", **quick["fitness"]}
    finals = {"picks": 1, "tuning": {"epochs": 0.5}} if method == "cfbs" else {}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"method": method, "search": short, "fitness": cheap, "finals": finals}))
    searched(path, tmp_path / "runs")
    page, said = reported(tmp_path / "runs", capsys)
    assert ("Criteria that rank channels alike" in page.words) == (method == "cfbs")
    assert ("does not blend" in page.words) == (method != "cfbs")
    assert ("The best network so far" in page.words) == (method in ("cfbs", "legr"))
    assert ("As derived trained it" in page.words) == (method == "derived")
    assert ("which takes" in page.words) == (said["front"][0]["macs_ratio"] < quick["budget"]["macs"] - 0.005)
    main(["show", "one", "best", "--runs", str(tmp_path / "runs")])
    shown = capsys.readouterr().out
    assert ("log alpha" in shown) == (method == "legr")
    assert ("as derived trained it, seed 0: validation accuracy" in shown) == (method == "derived")
    told = repr(blendsearch.open(str(tmp_path / "runs" / "one")).best())
    assert ("as derived trained it, seed 0: validation accuracy" in told) == (method == "derived")


HOSTILE = "<script>alert('1')</script>&\"><img src=x onerror=y>"


def test_whatever_a_run_calls_things_stays_text(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    searched(config_file, tmp_path / "runs", *SPANS, "--set", "search.evaluations=20")
    path = tmp_path / "runs" / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["structure"]["criteria"][0] = HOSTILE
    facts["structure"]["groups"][0]["name"] = f"0{HOSTILE}"
    facts["structure"]["splits"] = facts["provenance"]["platform"] = facts["provenance"]["git"] = HOSTILE
    facts["provenance"]["command"] = ["blendsearch", HOSTILE]
    facts["config"]["data"]["dataset"] = facts["config"]["model"]["factory"] = HOSTILE
    path.write_text(json.dumps(facts))
    write_owner(path.with_name("run.sqlite"), compute_owner(facts["provenance"]))
    store = open_run(tmp_path / "runs", "one").open_store()
    store._connection.execute("UPDATE evaluations SET origin = ? || ' at 30% macs' WHERE id = 1", (HOSTILE,))
    store.close()
    write_report(open_run(tmp_path / "runs", "one"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script") and not page.all("img") and "<script" not in text
    assert HOSTILE in "".join(page.text)


def test_a_report_is_written_where_it_can_be(config_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    searched(config_file, tmp_path / "runs", "--set", "search.evaluations=4")
    before = {file: file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.suffix in (".json", ".yaml")}
    monkeypatch.chdir(tmp_path)
    main(["report", "one"])
    assert "report: one.html" in capsys.readouterr().out
    check((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert all(file.read_bytes() == content for file, content in before.items())
    for to, message in (("absent/one.html", "absent is not a folder"), ("one.pdf", ".html")):
        with pytest.raises(SystemExit):
            main(["report", "one", "--to", to])
        assert message in capsys.readouterr().err


def test_the_template_lies_in_the_package() -> None:
    assert TEMPLATE.is_file() and TEMPLATE.parent.name == "report"


MARKED = [name for name, style in STYLES.items() if style.marker]


def make_chart(**changes: Any) -> FrontChart:
    points = tuple(ChartPoint(number, number / 10, number / 20, f"{number}: {HOSTILE}", HOSTILE) for number in range(4))
    series = tuple(ChartSeries(f"{HOSTILE} {style}", style, points, ((0.0, 0.1), (0.3, 0.2))) for style in MARKED)
    axes = Axis(HOSTILE, 0.0, 0.25, "share"), Axis(HOSTILE, 0.0, 0.2, "number")
    facts = {"name": "n", "title": HOSTILE, "description": HOSTILE, "x": axes[0], "y": axes[1], "series": series}
    return FrontChart(**(facts | changes))


def test_a_chart_escapes_names_and_carries_ids_and_values() -> None:
    drawing = draw_chart(make_chart())
    text = drawing.to_svg()
    page = Page(text)
    assert {name for name, _ in page.elements} <= {"svg", "title", "desc", "g", "defs", "path", "use", "text"}
    assert "style=" not in text.partition("<title")[2] and "var(--blue)" in text
    assert text.count("<title>") == text.count("data-id=") == 4 * len(MARKED)
    linked = Page(replace(drawing, links=frozenset({2})).to_svg())
    assert [item["href"] for item in linked.all("a")] == ["#network-2"] * len(MARKED)
    assert linked.all("svg")[0]["role"] == "group"
    alone = drawing.to_svg(standalone=True)
    assert 'xmlns="http://www.w3.org/2000/svg"' in alone and "var(--blue, #0072b2)" in alone
    assert alone == draw_chart(make_chart()).to_svg(standalone=True)
    assert "<title>" not in replace(drawing, tips=False).to_svg() and "data-id" in replace(drawing, tips=False).to_svg()


def test_a_logarithmic_axis_has_few_round_ticks() -> None:
    axis = Axis("MACs", 0.02, 0.6, "share", log=True)
    texts = Page(draw_chart(make_chart(x=axis, series=())).to_svg()).text
    assert [text for text in texts if text.endswith("%")] == [f"{n}\N{NO-BREAK SPACE}%" for n in (2, 5, 10, 20, 50)]
    texts = Page(draw_chart(make_chart(x=replace(axis, low=0.12, high=0.33), series=())).to_svg()).text
    assert [text for text in texts if text.endswith("%")] == [f"{n}\N{NO-BREAK SPACE}%" for n in (15, 20, 30)]


def test_a_chart_describes_the_front(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    searched(config_file, tmp_path / "runs", *SPANS, "--set", "search.evaluations=20")
    capsys.readouterr()
    main(["front", "one", "--runs", str(tmp_path / "runs"), "--json"])
    found = json.loads(capsys.readouterr().out)
    run = open_run(tmp_path / "runs", "one")
    for options in (ChartOptions(), ChartOptions("params", "error", True), ChartOptions("evaluations", "loss")):
        chart = build_front_chart(run, options)
        evaluated, front = chart.series[0], next(item for item in chart.series if item.style == "front")
        assert len(evaluated.points) == 20
        assert len({point.id for point in evaluated.points}) == 20
        if options.x == "evaluations":
            continue
        assert {point.id for point in front.points} == {row["id"] for row in found["front"]}
        assert {point.label for point in front.points} - {""} <= {"best", "knee"}
        assert [x for x, _ in front.line] == sorted(x for x, _ in front.line)
        values = [y for _, y in front.line]
        assert values == sorted(values, reverse=options.y == "error")
    chart = build_front_chart(run)
    assert chart.x.low <= 0.3 and chart.x.high >= 0.6
    rows = {row["id"]: row for row in found["front"]}
    front = next(item for item in chart.series if item.style == "front")
    assert all(point.x == pytest.approx(rows[point.id]["macs_ratio"]) for point in front.points if point.id in rows)
    assert all(point.y == pytest.approx(rows[point.id]["val_accuracy"]) for point in front.points if point.id in rows)
    with pytest.raises(RunError, match="no budget of memory"):
        build_front_chart(run, ChartOptions("memory"))
