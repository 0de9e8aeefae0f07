"""How a run, a front and a network look: text for a terminal, HTML and pictures for a notebook."""

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from blendsearch.errors import RunError
from blendsearch.runs.run import Run

Facts = dict[str, Any]

COLUMNS = (
    ("id", "id", "d"),
    ("network", "origin", "s"),
    ("MACs", "macs_ratio", ".2%"),
    ("params", "params_ratio", ".2%"),
    ("memory", "memory_ratio", ".2%"),
    ("latency", "latency_ratio", ".2%"),
    ("val loss", "val_loss", ".4f"),
    ("val acc", "val_accuracy", ".2%"),
    ("test acc", "test_accuracy", ".2%"),
)
"""Title, field, and form; a column that no network has anything for is left out."""


def format_headline(run: Run) -> str:
    """A run in one line."""
    with run.open_store(read_only=True) as store:
        count = max((row.id for row in store.read_evaluations()), default=0)
    state = "finished" if run.finished else "not finished"
    return f"run {run.name} in {run.path}: {run.config.model.title}, {count} evaluations, {state}"


def format_text_table(rows: Sequence[Facts]) -> str:
    """Networks as aligned text."""
    if not rows:
        return "no network has been evaluated yet"
    titles, cells = _format_cells(rows)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = []
    for line in (titles, *cells):
        padded = [
            text.ljust(width) if title == "network" else text.rjust(width)
            for title, text, width in zip(titles, line, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def format_html_table(rows: Sequence[Facts]) -> str:
    """Networks as an HTML table."""
    if not rows:
        return "<p>no network has been evaluated yet</p>"
    titles, cells = _format_cells(rows)
    head = Markup("").join(Markup("<th>{}</th>").format(title) for title in titles)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(text) for text in line))
        for line in cells
    )
    return str(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body))


def format_run_html(run: Run, front: Sequence[Facts]) -> str:
    """A run as HTML: its headline, the picture of its front, and the table."""
    picture = draw_front_png(run)
    image = Markup("")
    if picture is not None:
        text = f"The front of run {run.name}; the table below has its numbers."
        image = Markup('<img style="max-width:46em;width:100%" alt="{}" src="data:image/png;base64,{}">').format(
            text, base64.b64encode(picture).decode("ascii")
        )
    return f"<p>{escape(format_headline(run))}</p>{image}{format_html_table(front)}"


def draw_front_png(run: Run) -> bytes | None:
    """The picture of the front; None where there is nothing to draw yet."""
    from blendsearch.results.report.front_plot import draw_front

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "front.png"
        try:
            draw_front(run, path)
        except RunError:
            return None
        return path.read_bytes()


def format_network_line(facts: Facts) -> str:
    """A network in one line."""
    named = [f"network {facts['id']} ({_format_origin(facts)})"]
    named += [
        f"{format(facts[field], form)} {title}" if form == ".2%" and not title.endswith("acc") else ""
        for title, field, form in COLUMNS[2:6]
        if facts.get(field) is not None
    ]
    named.append(f"judged {facts['fidelity']}: validation loss {facts['val_loss']:.4f}")
    for title, field in (("validation accuracy", "val_accuracy"), ("test accuracy", "test_accuracy")):
        if facts.get(field) is not None:
            named.append(f"{title} {facts[field]:.2%}")
    named += [f"{name} {value:.4g}" for name, value in facts.get("further", {}).items()]
    line = ", ".join(named)
    for final in facts.get("finals", []):
        loss = facts["val_accuracy"] is None
        numbers = [
            f"{split} loss {final[f'{name}_loss']:.4f}" if loss else f"{split} accuracy {final[f'{name}_accuracy']:.2%}"
            for split, name in (("validation", "val"), ("test", "test"))
        ]
        line += f"; {final['how']}, seed {final['repeat']}: {', '.join(numbers)}"
    return line


def format_network_html(facts: Facts, groups: Sequence[Facts]) -> str:
    """A network as HTML: the line, and a bar per group for what it keeps."""
    bar = (
        '<tr><td style="text-align:left">{}</td><td>{} of {}</td><td style="min-width:12em">'
        '<div style="background:#8884;width:12em"><div style="background:#0072B2;height:.8em;width:{}%"></div></div>'
        "</td></tr>"
    )
    rows = Markup("").join(
        Markup(bar).format(group["group"], group["kept"], group["channels"], round(100 * group["kept_ratio"]))
        for group in groups
    )
    head = "<thead><tr><th>group</th><th>channels kept</th><th>share</th></tr></thead>"
    return f"<p>{escape(format_network_line(facts))}</p><table>{head}<tbody>{rows}</tbody></table>"


def draw_network_png(facts: Facts, groups: Sequence[Facts]) -> bytes:
    """The channels that each group keeps, before all that it had, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.22 * len(groups)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(groups))
    axes.barh(places, [group["channels"] for group in groups], color="#d5d5d5", label="dense")
    axes.barh(places, [group["kept"] for group in groups], color="#0072B2", label="kept")
    axes.set_yticks(list(places), [group["group"] for group in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("channels")
    axes.set_title(f"network {facts['id']}: {facts['macs_ratio']:.1%} of MACs", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, edgecolor="none")
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()


def _format_cells(rows: Sequence[Facts]) -> tuple[list[str], list[list[str]]]:
    further = list(dict.fromkeys(name for row in rows for name in row.get("further", {})))
    columns = [column for column in COLUMNS if any(row.get(column[1]) is not None for row in rows)]
    cells = []
    for row in rows:
        shown = {**row, "origin": _format_origin(row)}
        line = ["" if shown.get(field) is None else format(shown[field], form) for _, field, form in columns]
        own = row.get("further", {})
        cells.append(line + [f"{own[name]:.4g}" if name in own else "" for name in further])
    return [title for title, *_ in columns] + further, cells


def _format_origin(facts: Facts) -> str:
    return str(facts["origin"]).split(" = ")[0]
