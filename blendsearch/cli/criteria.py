"""The verb criteria: list the criteria, or map which of them rank channels alike."""

import argparse
from typing import TYPE_CHECKING

from blendsearch.cli.terminal import make_table, make_text_progress, print_table
from blendsearch.errors import ConfigError
from blendsearch.extras import require_extra
from blendsearch.json_output import format_json

if TYPE_CHECKING:
    from blendsearch.blend.clustering import Clusters
    from blendsearch.blend.correlation_map import CorrelationMap
    from blendsearch.criteria.table import ScoreTable
    from blendsearch.runs.config.schema import Config
    from blendsearch.runs.run import Run

RHO_COLUMNS = "rho inside", "rho to others"


def show_criteria(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.run import open_run

    run: Run | None = None
    config: Config | None = None
    if arguments.run is not None:
        if arguments.config is not None or arguments.set:
            raise ConfigError("--run has its own config: give neither CONFIG nor --set with it")
        from blendsearch.runs.trust import check_trusted

        run = open_run(arguments.runs, arguments.run)
        check_trusted(run, arguments.trust)
        config = run.config
    elif arguments.config is not None or arguments.set or arguments.map is not None:
        config = load_config(arguments.config, arguments.set)
    if arguments.map is not None and config is not None:
        _map_criteria(config, run, arguments)
    else:
        _list_criteria(config, arguments)


def _list_criteria(config: "Config | None", arguments: argparse.Namespace) -> None:
    """Print the criteria that `config` uses; without one, all of them."""
    from blendsearch.criteria.registry import CRITERIA, load_criteria, select_criteria

    load_criteria(() if config is None else config.criteria.modules)
    listed = list(CRITERIA.values()) if config is None else list(select_criteria(config.criteria.pool))
    if arguments.json:
        fields = ("name", "family", "cost", "source", "formula")
        print(format_json([{field: getattr(item, field) for field in fields} for item in listed], indent=1))
        return
    table = make_table("criterion", "family", "cost", "what it computes", "from")
    for item in sorted(listed, key=lambda item: (item.family, item.name)):
        table.add_row(item.name, item.family, item.cost, item.formula, item.source)
    print_table(table)
    print(
        "cost: free, stored vectors; weights, computed from the weights; probe, one pass over the calibration images;\n"
        "sub-sample, a pass over some of them. Makers of a channel are the layers that produce it, readers those that "
        "take it as input."
    )


def _map_criteria(config: "Config", run: "Run | None", arguments: argparse.Namespace) -> None:
    from blendsearch.results.report.output_file import check_output_path

    require_extra("plots", f"the picture {arguments.map}")  # these before anything that takes time
    check_output_path(arguments.map)
    table, clusters = _score(config, run, arguments)
    from blendsearch.blend.correlation_map import build_correlation_map
    from blendsearch.results.report.criteria_map import describe_map
    from blendsearch.results.report.criteria_map_picture import draw_criteria_map

    found = build_correlation_map(table, clusters, config.criteria.clustering, config.criteria.clusters, config.seed)
    draw_criteria_map(found, config.model.title, arguments.map)
    if arguments.json:
        print(
            format_json({"model": config.model.title, "picture": str(arguments.map), **describe_map(found).to_dict()})
        )
        return
    _print_clusters(found, config.model.title)
    _print_groups(found)
    print(f"\npicture: {arguments.map}")


def _score(config: "Config", run: "Run | None", arguments: argparse.Namespace) -> "tuple[ScoreTable, Clusters]":
    """Read the scores of `run`; without one, compute them."""
    if run is not None:
        from blendsearch.runs.score_files import read_scores

        return read_scores(run)
    from blendsearch.events import Scored
    from blendsearch.pipeline.problem.builder import score_config

    lines = make_text_progress(config, to_stderr=arguments.json)
    try:
        # criteria that are left out are listed with each group below
        return score_config(config, lambda event: None if isinstance(event, Scored) else lines(event))
    finally:
        lines.close()


def _print_clusters(found: "CorrelationMap", model_name: str) -> None:
    from blendsearch.results.report.criteria_map import format_cluster_name, format_correlation

    table = make_table("cluster", "centre", *RHO_COLUMNS, "members")
    for number, cluster in enumerate(found.clusters):
        means = (format_correlation(cluster.mean_inside), format_correlation(cluster.mean_to_others))
        members = ", ".join(found.criteria[row] for row in cluster.members)
        table.add_row(format_cluster_name(number), found.criteria[cluster.centre], *means, members)
    print(
        f"{len(found.order)} criteria, clustered by the average of rho over {len(found.groups)} groups of "
        f"{model_name} (rho: rank correlation of the channels' scores)"
    )
    print_table(table)
    print(
        f"mean rho {format_correlation(found.mean_inside)} inside clusters, "
        f"{format_correlation(found.mean_between)} between them\n"
    )


def _print_groups(found: "CorrelationMap") -> None:
    width = max(len(name) for name in found.groups)
    for group, channels, clusters in zip(found.groups, found.channels, found.group_clusters, strict=True):
        members = " | ".join(", ".join(found.criteria[row] for row in cluster) for cluster in clusters)
        print(f"{group:<{width}} {channels:>5} channels: {members}")
        left_out = [item for item in found.left_out if item.group == group]
        for reason in dict.fromkeys(item.reason for item in left_out):
            names = ", ".join(item.criterion for item in left_out if item.reason == reason)
            print(f"{'':<{width}}       left out: {names}: {reason}")
