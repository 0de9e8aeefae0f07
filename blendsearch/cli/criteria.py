"""The verb criteria: list them, or map which of them say the same."""

import argparse
import json
from typing import TYPE_CHECKING

from blendsearch.cli.terminal import make_table, make_text_progress, print_table
from blendsearch.errors import ConfigError

if TYPE_CHECKING:
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
        run = open_run(arguments.runs, arguments.run)
        config = run.config
    elif arguments.config is not None or arguments.set or arguments.map is not None:
        config = load_config(arguments.config, arguments.set)
    if arguments.map is not None and config is not None:
        _map_criteria(config, run, arguments)
    else:
        _list_criteria(config, arguments)


def _list_criteria(config: "Config | None", arguments: argparse.Namespace) -> None:
    """Those that `config` uses; without one, all there are."""
    from blendsearch.criteria.registry import CRITERIA, load_criteria, select_criteria

    load_criteria(() if config is None else config.criteria.modules)
    listed = list(CRITERIA.values()) if config is None else list(select_criteria(config.criteria.pool))
    if arguments.json:
        fields = ("name", "family", "cost", "source", "formula")
        print(json.dumps([{field: getattr(item, field) for field in fields} for item in listed], indent=1))
        return
    table = make_table("criterion", "family", "cost", "what it computes", "from")
    for item in sorted(listed, key=lambda item: (item.family, item.name)):
        table.add_row(item.name, item.family, item.cost, item.formula, item.source)
    print_table(table)
    print(
        "cost: free, a look at stored vectors; weights, work on the weights; probe, one pass over the calibration "
        "images;\nsub-sample, a pass over a part of them. Makers of a channel are the layers that give it, "
        "readers those that take it."
    )


def _map_criteria(config: "Config", run: "Run | None", arguments: argparse.Namespace) -> None:
    from blendsearch.results.report.output_file import check_output_path

    check_output_path(arguments.map)  # before anything that takes time
    if run is None:
        from blendsearch.events import Scored
        from blendsearch.pipeline.problem.builder import score_config

        lines = make_text_progress(config, to_stderr=arguments.json)
        try:
            # what is left out stands with each group below
            scored = score_config(config, lambda event: None if isinstance(event, Scored) else lines(event))
        finally:
            lines.close()
    else:
        from blendsearch.runs.score_files import read_scores

        scored = read_scores(run)
    from blendsearch.blend.correlation_map import build_correlation_map
    from blendsearch.results.report.criteria_map import describe_map, draw_criteria_map, format_correlation

    asked = config.criteria
    found = build_correlation_map(*scored, asked.clustering, asked.clusters, config.seed)
    draw_criteria_map(found, config.model.title, arguments.map)
    facts = {"model": config.model.title, "picture": str(arguments.map), **describe_map(found)}
    if arguments.json:
        print(json.dumps(facts))
        return
    table = make_table("cluster", "centre", *RHO_COLUMNS, "members")
    for row in facts["clusters"]:
        means = (format_correlation(row["mean_inside"]), format_correlation(row["mean_to_others"]))
        table.add_row(row["cluster"], row["centre"], *means, ", ".join(row["members"]))
    print(
        f"{len(found.order)} criteria, clustered by the average of rho over {len(found.groups)} groups of "
        f"{facts['model']} (rho: rank correlation of the channels' scores)"
    )
    print_table(table)
    print(
        f"mean rho {format_correlation(found.mean_inside)} inside clusters, "
        f"{format_correlation(found.mean_between)} between them\n"
    )
    width = max(len(name) for name in found.groups)
    for group in facts["groups"]:
        clusters = " | ".join(", ".join(members) for members in group["clusters"])
        print(f"{group['group']:<{width}} {group['channels']:>5} channels: {clusters}")
        for reason in dict.fromkeys(item["reason"] for item in group["left_out"]):
            names = ", ".join(item["criterion"] for item in group["left_out"] if item["reason"] == reason)
            print(f"{'':<{width}}       left out: {names}: {reason}")
    print(f"\npicture: {arguments.map}")
