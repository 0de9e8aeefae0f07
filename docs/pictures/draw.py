"""Draw the pictures of the site that show a real run: ``python docs/pictures/draw.py RUN [GROUP]``, RUN a run's path.

The site has those of the digits example: ``uv run blendsearch search``, then this with ``runs/digits-net-1``.
"""

import sys
from pathlib import Path

from blendsearch.blend.correlation_map import build_correlation_map
from blendsearch.blend.genome import blend_ranks
from blendsearch.blend.network_space import make_network_space
from blendsearch.results.history import format_network_name, read_history
from blendsearch.results.network import describe_network, make_group_reader
from blendsearch.results.report.figures import draw_correlation_figure, draw_front_figure, make_legend
from blendsearch.results.report.network_figures import draw_blend_figure, draw_kept_figure
from blendsearch.results.report.svg import Drawing
from blendsearch.results.summary import select_network
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.score_files import read_scores
from blendsearch.structure.groups import unpack_cut

HERE = Path(__file__).parent
CELL = 24.0


def draw(run: Run, group: str | None) -> None:
    best, knee = select_network(run, "best"), select_network(run, "knee")
    found = read_history(run)
    groups = [group.to_dict() for group in make_group_reader(run)(best)]
    asked = run.config.criteria
    table, clusters = read_scores(run)
    alike = build_correlation_map(table, clusters, asked.clustering, asked.clusters, run.config.seed)
    order = [alike.criteria[row] for row in alike.order]
    figures = {
        "front": draw_front_figure(found, {best.id: "best", knee.id: "knee"}),
        "criteria": draw_correlation_figure(alike),
        "kept": draw_kept_figure(groups, "kept", format_network_name(best)),
        "blend": draw_blend_figure(groups, order, "blend", format_network_name(best)),
        "scores": scores_figure(run, group or table.groups[0], order),
    }
    for name, figure in figures.items():
        (HERE / f"{name}.svg").write_text(figure.__html__() + "\n", encoding="utf-8")
        print(f"{name}.svg")
    print("legend of the front:", "; ".join(f"{key.style}: {key.text}" for key in make_legend(found)))


def scores_figure(run: Run, name: str, order: list[str]) -> Drawing:
    """One group of the best network: its channels as the criteria rank them, as the blend does, and which are kept."""
    table, clusters = read_scores(run)
    number = table.groups.index(name)
    space = make_network_space(table, clusters)
    ranks = space.ranks[number]
    row = select_network(run, "best")
    facts = describe_network(run, str(row.id)).groups[number]
    heard = {item.criterion: item.part for item in facts.blend or ()}
    weights = [heard.get(criterion, 0.0) for criterion in table.criteria]
    (blend,) = blend_ranks([ranks], [weights])
    start = sum(len(scores[0]) for scores in table.scores[:number])
    channels = ranks.shape[1]
    kept = unpack_cut(row.cut, sum(scores.shape[1] for scores in table.scores))[start : start + channels]
    left, top = 120.0, 26.0
    rows = len(order)
    height = top + (rows + 2.6) * CELL + 24
    words = f"{rows} criteria rank {channels} channels; the blend ranks them anew, and {int(kept.sum())} are kept."
    drawing = Drawing(left + channels * CELL + 8, height, "scores", f"The scores of group {name}", words)
    drawing.draw_text(left, 14, f"the {channels} channels of group {name}; dark: keep", "small")
    lines = [(criterion, ranks[table.criteria.index(criterion)]) for criterion in order]
    for place, (criterion, values) in enumerate([*lines, ("blend", blend)]):
        y = top + place * CELL + (6 if place == rows else 0)
        drawing.draw_text(left - 8, y + 16, criterion, "tick strong" if place == rows else "tick", "end")
        for channel, value in enumerate(values):
            tip = f"{criterion}: {value:.2f}"
            drawing.draw_box(left + channel * CELL, y, CELL - 2, CELL - 2, "alike", tip, float(value))
    y = top + (rows + 1) * CELL + 12
    drawing.draw_text(left - 8, y + 16, "cut", "tick strong", "end")
    for channel, stays in enumerate(kept):
        style = "kept-bar" if stays else "dense-bar"
        drawing.draw_box(left + channel * CELL, y, CELL - 2, CELL - 2, style, "kept" if stays else "cut")
    return drawing


if __name__ == "__main__":
    where = Path(sys.argv[1])
    draw(open_run(where.parent, where.name), sys.argv[2] if len(sys.argv) > 2 else None)
