"""The front as a picture file; at one budget, where all networks cost the same, the best network so far."""

from pathlib import Path

from blendsearch.runs.run import Run


def draw_front(run: Run, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. Raises RunError when there is nothing to draw."""
    from blendsearch.results.report.chart import build_front_chart
    from blendsearch.results.report.figures import draw_chart

    draw_chart(build_front_chart(run), titled=True).save(path)
