"""The points of a chart as CSV."""

import csv
import io

from blendsearch.results.report.chart import FrontChart

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def format_chart_csv(chart: FrontChart) -> str:
    """Format a line per point: its series, network, label, both values, and its tooltip."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["series", "network", "label", chart.x.label, chart.y.label, "description"])
    for series in chart.series:
        name = _quote_formula(series.name)
        writer.writerows(
            [name, "" if point.id is None else point.id, point.label, point.x, point.y, _quote_formula(point.tip)]
            for point in series.points
        )
    return buffer.getvalue()


def _quote_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
