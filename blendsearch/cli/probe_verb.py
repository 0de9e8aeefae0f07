"""The verb probe: train the best known rules at several compressions, and say where a search can pay."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from blendsearch.cli.endings import set_next_step
from blendsearch.cli.terminal import make_reporter, make_table, print_table, shorten_metric
from blendsearch.json_output import format_json
from blendsearch.runs.default_folder import format_option

if TYPE_CHECKING:
    from blendsearch.results.probe_summary import ProbeSummary

BAR = 30
"""Characters of the bar of the dense network's accuracy."""

MARGIN = 0.05
"""Accuracy below the lowest one at which the bars begin."""


def probe(arguments: argparse.Namespace) -> None:
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.run import check_name, find_free_name

    overrides = [] if arguments.ray is None else [f"engine.ray={json.dumps(arguments.ray)}"]
    config = load_config(arguments.config, [*arguments.set, *overrides])
    name = arguments.name or find_free_name(arguments.runs, f"{config.model.factory.rpartition(':')[2]}-probe")
    check_name(arguments.runs, name)
    set_next_step(arguments, name)
    report = make_reporter(arguments, config)
    try:
        from blendsearch.pipeline.launch import run_search
        from blendsearch.pipeline.methods.rules.spec import RulesConfig
        from blendsearch.pipeline.probe_run import ProbeOptions, set_up_probe

        options = ProbeOptions(arguments.factors, arguments.rules, arguments.share)
        command = ["blendsearch", *sys.argv[1:]]
        run, problem, engine = set_up_probe(config, options, arguments.runs, name, command, report)
        factors, images = problem.config.get_options(RulesConfig).factors, len(problem.splits.val)
        run_search(run, problem, engine, report)
    finally:
        report.close()
    from blendsearch.results.probe_summary import summarize_probe

    found = summarize_probe(run, factors, images)
    if arguments.json:
        print(format_json({"event": "result", **found.to_dict()}))
    else:
        _print_probe(found, arguments)


def _print_probe(found: "ProbeSummary", arguments: argparse.Namespace) -> None:
    """Print the sentence, the next commands, and the curve."""
    print(found.sentence)
    runs = format_option(arguments.runs)
    if found.take is not None:
        print(f"  blendsearch export {found.run} {found.take}{runs}")
    beyond = [item.factor for item in found.networks if item.factor > (found.recovers_up_to or 0)]
    if beyond:
        config = "" if arguments.config is None else f" {arguments.config}"
        print(f"  blendsearch search{config} --set budget.{found.cost}={1 / min(beyond):.4g}{runs}")
    floor = max(0.0, min((item.val_accuracy for item in found.networks), default=0.0) - MARGIN)
    table = make_table("factor", "id", "rule", f"val {shorten_metric(found.metric)} before", "after", "")
    for item in found.networks:
        before = "" if item.val_before is None else f"{item.val_before:.2%}"
        height = (item.val_accuracy - floor) / max(found.dense_accuracy - floor, 1e-9)
        bar = "\N{FULL BLOCK}" * round(BAR * min(1.0, height))
        table.add_row(f"{item.factor:g}x", str(item.id), item.rule, before, f"{item.val_accuracy:.2%}", bar)
    print_table(table)
    print(f"dense network: validation {found.metric} {found.dense_accuracy:.2%}")
