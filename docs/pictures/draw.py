"""Draw the pictures of the site that show a real run: ``python docs/pictures/draw.py RUN [GROUP]``, RUN a run's path.

The site has those of the digits example: ``uv run blendsearch search``, then this with ``runs/digits-net-1``.
"""

import sys
from pathlib import Path

from blendsearch.blend.correlation_map import build_correlation_map
from blendsearch.blend.genome import blend_ranks
from blendsearch.blend.network_space import make_network_space
from blendsearch.results.history import format_network_name
from blendsearch.results.network import make_group_reader
from blendsearch.results.report.chart_builder import build_front_chart
from blendsearch.results.report.drawing import BLUE, FAINT, Drawing, styled
from blendsearch.results.report.figures import Cell, Grid, draw_chart, draw_correlation_figure, draw_grid
from blendsearch.results.report.front_plot import draw_front
from blendsearch.results.report.network_figures import draw_blend_figure, draw_kept_figure
from blendsearch.results.summary import select_network
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.score_files import read_scores
from blendsearch.structure.groups import unpack_cut

HERE = Path(__file__).parent
CELL, LEFT, TOP = 24.0, 112.0, 26.0


def draw(run: Run, group: str | None) -> None:
    best = select_network(run, "best")
    groups = make_group_reader(run)(best)
    options = run.config.criteria
    table, clusters = read_scores(run)
    criteria_map = build_correlation_map(table, clusters, options.clustering, options.clusters, run.config.seed)
    order = [criteria_map.criteria[row] for row in criteria_map.order]
    figures = {
        "front": draw_chart(build_front_chart(run)),
        "criteria": draw_correlation_figure(criteria_map),
        "kept": draw_kept_figure(groups, "kept", format_network_name(best)),
        "blend": draw_blend_figure(groups, order, "blend", format_network_name(best)),
        "scores": draw_scores(run, group or table.groups[0], order),
    }
    for name, figure in figures.items():
        if figure is not None:
            (HERE / f"{name}.svg").write_text(figure.to_svg() + "\n", encoding="utf-8")
            print(f"{name}.svg")
    draw_front(run, HERE / "front.png")
    print("front.png")


@styled
def draw_scores(run: Run, name: str, order: list[str]) -> Drawing:
    """Draw one group of the best network: the ranks by each criterion and by the blend, and the channels kept."""
    table, clusters = read_scores(run)
    number = table.groups.index(name)
    ranks = make_network_space(table, clusters).ranks[number]
    row = select_network(run, "best")
    weights = {item.criterion: item.part for item in make_group_reader(run)(row)[number].blend or ()}
    (blend,) = blend_ranks([ranks], [[weights.get(criterion, 0.0) for criterion in table.criteria]])
    start = sum(len(scores[0]) for scores in table.scores[:number])
    channels = ranks.shape[1]
    kept = unpack_cut(row.cut, sum(scores.shape[1] for scores in table.scores))[start : start + channels]
    lines = [*((criterion, ranks[table.criteria.index(criterion)]) for criterion in order), ("blend", blend)]
    cells = [[Cell(BLUE, float(value), f"{line}: {value:.2f}") for value in values] for line, values in lines]
    cells.append([Cell(BLUE if stays else FAINT, 1.0, "kept" if stays else "cut") for stays in kept])
    rows = [*order, "blend", "cut"]
    width, height = LEFT + channels * CELL + 4, TOP + len(rows) * CELL + 4
    figure, axes, marks = draw_grid(Grid(rows, (), cells, width, height, LEFT, TOP, 4.0, 4.0))
    for label in axes.get_yticklabels()[-2:]:
        label.set_fontweight("bold")
    axes.set_title(f"the {channels} channels of group {name}; strong colour: keep", loc="left", fontsize=11)
    words = f"{len(order)} criteria and their blend rank {channels} channels, of which {int(kept.sum())} are kept."
    return Drawing(figure, "scores", f"The scores of group {name}", words, marks)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    draw(open_run(where.parent, where.name), sys.argv[2] if len(sys.argv) > 2 else None)
