"""The answer of a run on the terminal: a sentence, the next command, and a short table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from blendsearch.cli.terminal import make_table, print_table, shorten_metric

if TYPE_CHECKING:
    from blendsearch.results.answer import Answer
    from blendsearch.results.answer_row import AnswerRow
    from blendsearch.results.metrics import RunMetric


def print_answer(answer: "Answer", *, table: bool = True) -> None:
    """Print the answer; `table` says if its short table follows."""
    for line in format_answer(answer):
        print(line)
    if table and answer.rows:
        _print_rows(answer)


def format_answer(answer: "Answer") -> Iterator[str]:
    """Format the sentences, the next command and the hint as lines."""
    yield answer.sentences[0]
    yield f"  {answer.command}"
    yield from answer.sentences[1:]
    if answer.warning:
        yield answer.warning
    if answer.hint:
        yield answer.hint


def _print_rows(answer: "Answer") -> None:
    from blendsearch.results.latency_text import RUNTIME_NAMES

    rows = [*([] if answer.dense is None else [answer.dense]), *answer.rows]
    timed = any(row.latency_ms is not None for row in rows)
    tested = any(row.test_accuracy is not None for row in rows)
    title = "after training" if answer.rows[0].trained else "before training"
    columns = ["id", title, "", "MACs", "params", "size"]
    runtimes = list(dict.fromkeys(name for row in rows for name in row.runtimes))
    columns += [
        *(["latency"] if timed else []),
        *(RUNTIME_NAMES[name] for name in runtimes),
        f"val {shorten_metric(answer.metric.name)}",
        *([f"test {shorten_metric(answer.metric.name)}"] if tested else []),
    ]
    table = make_table(*columns)
    for row in rows:
        table.add_row(*_format_row(row, runtimes, answer.metric, timed=timed, tested=tested))
        if row is answer.dense:
            table.add_section()
    print_table(table)
    if answer.conditions:
        print(answer.conditions)


def _format_row(
    row: "AnswerRow", runtimes: Sequence[str], metric: "RunMetric", *, timed: bool, tested: bool
) -> list[str]:
    from blendsearch.results.formatting import format_bytes

    cells = [str(row.id), row.name, row.mark, f"{row.macs_ratio:.1%}", f"{row.params_ratio:.1%}"]
    cells.append(format_bytes(row.bytes))
    if timed:
        cells.append("" if row.latency_ms is None else f"{row.latency_ms:.2f} ms ({row.latency_ratio:.0%})")
    known = [row.runtimes.get(name) for name in runtimes]
    cells += ["" if item is None else f"{item['ms']:.2f} ms ({item['ratio']:.0%})" for item in known]
    if metric.share:
        cells.append(_format_accuracy(row.val_accuracy, row.val_spread))
    else:
        cells.append("" if row.val_loss is None else f"{metric.convert_loss(row.val_loss):.4f}")
    if tested:
        cells.append(_format_accuracy(row.test_accuracy, row.test_spread))
    return cells


def _format_accuracy(mean: float | None, deviation: float | None) -> str:
    """Format an accuracy in per cent, and its standard deviation in points."""
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return "" if mean is None else f"{mean:.2%}{spread}"
