"""The front as a picture file; at one budget, where all networks cost the same, the best network so far."""

from pathlib import Path

from blendsearch.errors import RunError
from blendsearch.extras import require_extra
from blendsearch.runs.run import Run


def draw_front(run: Run, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. Raises RunError when there is nothing to draw,
    and where matplotlib is not installed.
    """
    require_extra("plots", f"the picture {path}", RunError)
    from blendsearch.results.report.chart_builder import build_front_chart
    from blendsearch.results.report.figures import draw_chart

    draw_chart(build_front_chart(run), titled=True).save(path)
