"""Display of runs, fronts and networks: text for a terminal, HTML and figures for a notebook."""

import base64
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from blendsearch.errors import RunError
from blendsearch.extras import list_missing_packages
from blendsearch.results.answer import Answer
from blendsearch.results.records import FineTuneRecord, GroupRecord, NetworkDetails, NetworkRecord
from blendsearch.results.summary import get_accuracy_name
from blendsearch.runs.origin import Origin
from blendsearch.runs.run import Run


class Column(NamedTuple):
    """A column of the table of networks; it is left out where no network has a value."""

    title: str
    read: Callable[[NetworkRecord], int | float | str | None]
    form: str


COST_COLUMNS = (
    Column("MACs", lambda network: network.macs_ratio, ".2%"),
    Column("params", lambda network: network.params_ratio, ".2%"),
    Column("memory", lambda network: network.memory_ratio, ".2%"),
    Column("latency", lambda network: network.latency_ratio, ".2%"),
)
COLUMNS = (
    Column("id", lambda network: network.id, "d"),
    Column("network", lambda network: Origin.parse(network.origin).label, "s"),
    *COST_COLUMNS,
    Column("val loss", lambda network: network.val_loss, ".4f"),
    Column("val acc", lambda network: network.val_accuracy, ".2%"),
    Column("test acc", lambda network: network.test_accuracy, ".2%"),
)


def format_headline(run: Run) -> str:
    """Format a run in one line."""
    with run.open_store(read_only=True) as store:
        count = store.read_last_id()
    state = "finished" if run.finished else "not finished"
    return f"run {run.name} in {run.path}: {run.config.model.title}, {count} evaluations, {state}"


def format_text_table(rows: Sequence[NetworkRecord], measure: str = "accuracy") -> str:
    """Format networks as a table of aligned text; `measure` is the name of their accuracy."""
    if not rows:
        return "no network has been evaluated yet"
    titles, cells = _format_cells(rows, measure)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = []
    for line in (titles, *cells):
        padded = [
            text.ljust(width) if title == "network" else text.rjust(width)
            for title, text, width in zip(titles, line, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def format_html_table(rows: Sequence[NetworkRecord], measure: str = "accuracy") -> str:
    """Format networks as an HTML table."""
    if not rows:
        return "<p>no network has been evaluated yet</p>"
    titles, cells = _format_cells(rows, measure)
    head = Markup("").join(Markup("<th>{}</th>").format(title) for title in titles)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(text) for text in line))
        for line in cells
    )
    return str(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body))


def format_answer_text(answer: Answer) -> str:
    """Format the answer as text: its sentences, and the Python that exports the network."""
    warning = [answer.warning] if answer.warning else []
    return "\n".join([*answer.sentences, *warning, *_format_next_step(answer)])


def _format_next_step(answer: Answer) -> list[str]:
    best = next((row.id for row in answer.rows if "best" in row.mark), None)
    return [] if best is None else [f'export it with: run.network({best}).export("network-{best}")']


def _format_answer_html(answer: Answer) -> Markup:
    first, *others = answer.sentences
    steps = Markup("").join(
        Markup("<br><small>{}</small>").format(text) for text in (*others, *_format_next_step(answer))
    )
    return Markup('<p style="font-size:1.15em"><strong>{}</strong>{}</p>').format(first, steps)


def format_run_html(run: Run, answer: Answer, front: Sequence[NetworkRecord]) -> str:
    """Format a run as HTML: the network to take, the figure of its front, the table, and the run's headline."""
    picture = draw_front_png(run)
    image = Markup("")
    if picture is not None:
        text = f"The front of run {run.name}; the table below has its numbers."
        image = Markup('<img style="max-width:46em;width:100%" alt="{}" src="data:image/png;base64,{}">').format(
            text, base64.b64encode(picture).decode("ascii")
        )
    headline = Markup("<p><small>{}</small></p>").format(format_headline(run))
    return f"{_format_answer_html(answer)}{image}{format_html_table(front, get_accuracy_name(run))}{headline}"


def draw_front_png(run: Run) -> bytes | None:
    """Draw the front; None where nothing has been evaluated yet."""
    from blendsearch.results.report.front_plot import draw_front

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "front.png"
        try:
            draw_front(run, path)
        except RunError:
            return None
        return path.read_bytes()


def format_network_line(network: NetworkRecord, measure: str = "accuracy") -> str:
    """Format a network in one line; `measure` is the name of its accuracy."""
    parts = [f"network {network.id} ({Origin.parse(network.origin).label})"]
    costs = ((column, column.read(network)) for column in COST_COLUMNS)
    parts += [f"{value:{column.form}} {column.title}" for column, value in costs if value is not None]
    parts.append(f"evaluated at fidelity {network.fidelity}: validation loss {network.val_loss:.4f}")
    for split, accuracy in (("validation", network.val_accuracy), ("test", network.test_accuracy)):
        if accuracy is not None:
            parts.append(f"{split} {measure} {accuracy:.2%}")
    parts += [f"{name} {value:.4g}" for name, value in (network.further or {}).items() if name != measure]
    finals = network.finals if isinstance(network, NetworkDetails) else ()
    accuracies = network.val_accuracy is not None
    return "; ".join([", ".join(parts), *(_format_fine_tune(final, accuracies=accuracies) for final in finals)])


def _format_fine_tune(final: FineTuneRecord, *, accuracies: bool) -> str:
    metrics = (
        f"validation accuracy {final.val_accuracy:.2%}, test accuracy {final.test_accuracy:.2%}"
        if accuracies
        else f"validation loss {final.val_loss:.4f}, test loss {final.test_loss:.4f}"
    )
    return f"{final.how}, seed {final.repeat}: {metrics}"


def format_network_html(network: NetworkRecord, groups: Sequence[GroupRecord]) -> str:
    """Format a network as HTML: one line, and a bar per group for its kept channels."""
    bar = (
        '<tr><td style="text-align:left">{}</td><td>{} of {}</td><td style="min-width:12em">'
        '<div style="background:#8884;width:12em"><div style="background:#0072B2;height:.8em;width:{}%"></div></div>'
        "</td></tr>"
    )
    rows = Markup("").join(
        Markup(bar).format(group.group, group.kept, group.channels, round(100 * group.kept_ratio)) for group in groups
    )
    head = "<thead><tr><th>group</th><th>channels kept</th><th>share</th></tr></thead>"
    return f"<p>{escape(format_network_line(network))}</p><table>{head}<tbody>{rows}</tbody></table>"


def draw_network_png(network: NetworkRecord, groups: Sequence[GroupRecord]) -> bytes | None:
    """Draw the kept channels of each group in front of all its channels; None where matplotlib is not installed."""
    if list_missing_packages("plots"):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.22 * len(groups)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(groups))
    axes.barh(places, [group.channels for group in groups], color="#d5d5d5", label="dense")
    axes.barh(places, [group.kept for group in groups], color="#0072B2", label="kept")
    axes.set_yticks(list(places), [group.group for group in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("channels")
    axes.set_title(f"network {network.id}: {network.macs_ratio:.1%} of MACs", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, edgecolor="none")
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()


def _format_cells(rows: Sequence[NetworkRecord], measure: str) -> tuple[list[str], list[list[str]]]:
    further = list(dict.fromkeys(name for row in rows for name in row.further or {} if name != measure))
    columns = [column for column in COLUMNS if any(column.read(row) is not None for row in rows)]
    cells = []
    for row in rows:
        values = [(column.read(row), column.form) for column in columns]
        line = ["" if value is None else format(value, form) for value, form in values]
        own = row.further or {}
        cells.append(line + [f"{own[name]:.4g}" if name in own else "" for name in further])
    named = measure.replace("accuracy", "acc")
    return [column.title.replace("acc", named) for column in columns] + further, cells
