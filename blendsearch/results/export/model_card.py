"""The model card of an exported network, in Markdown: what it is, what it can, what it costs, where it came from."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.pipeline.problem.inputs import is_in_python
from blendsearch.results.formatting import format_budget
from blendsearch.results.network import describe_network, describe_training
from blendsearch.results.summary import has_accuracy, summarize_run
from blendsearch.runs.run import Run

MAX_CRITERIA = 6
"""Criteria of a blend that are named, the loudest first."""


def render_model_card(run: Run, selector: str, facts: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> str:
    """The card of network `what`; `facts` is its ``network.json``, `sizes` its files, as `formats.Written` has them."""
    network = describe_network(run, selector)
    numbers = summarize_run(run)
    dense = numbers["dense"][0] if numbers["dense"] else {}
    final = next((row for row in numbers["finals"] if row["id"] == network["id"]), None)
    title = run.config.model.title
    share = f"{network['macs_ratio']:.1%} of its multiply-accumulates, {network['params_ratio']:.1%} of its parameters"
    parts = [
        "---\nlibrary_name: pytorch\ntags: [channel-pruning, blendsearch]\n---",
        f"# {title}, pruned: {share}",
        f"A network of fewer channels, cut out of a trained {title} by blendsearch "
        f"{run.provenance['packages']['blendsearch']}: network {network['id']} of run `{run.name}`, which searched for "
        f"{format_budget(run).replace(chr(160), ' ')} among {run.config.search.evaluations} candidates. Its origin: "
        f"{network['origin'].split(' = ')[0]}.",
        "## How good it is",
        _format_metrics(run, network, dense, final),
        "## What it costs",
        _format_costs(network, facts.get("latency")),
        "## How to load it",
        _format_loading(run),
        _format_files(files),
        _format_input(facts["input"]),
        "## Data",
        f"{run.structure['splits']} Validation images chose this network; test images, where there are figures of "
        "them, were looked at once, afterwards.",
        "## How it was cut",
        _format_groups(network),
        "## Where it came from",
        _format_provenance(run, network),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_metrics(
    run: Run, network: Mapping[str, Any], dense: Mapping[str, Any], final: Mapping[str, Any] | None
) -> str:
    rows = [("this network, as the search judged it", network), ("the dense network", dense)]
    if final is not None:
        rows.insert(0, (f"this network, {describe_training(run)}: these weights", final))
    columns = [("validation loss", "val_loss", ".4f")]
    if has_accuracy(run):
        columns += [("validation accuracy", "val_accuracy", ".2%"), ("test accuracy", "test_accuracy", ".2%")]
    further = list(network.get("further", {}))
    cells = [
        [name]
        + ["" if row.get(field) is None else format(row[field], form) for _, field, form in columns]
        + [f"{row.get('further', {}).get(item, float('nan')):.4g}" for item in further]
        for name, row in rows
    ]
    seeds = (
        "" if final is None or final["seeds"] == 1 else f" Fine-tuned figures are means over {final['seeds']} seeds."
    )
    judge = run.structure.get("task", {}).get("evaluate")
    by = f" Judged by the searcher's own function `{judge}`." if judge else ""
    fidelity = f"Judged {network['fidelity']}, by {run.config.fitness.precision} arithmetic.{by}{seeds}"
    return f"{_format_table(['', *(title for title, *_ in columns), *further], cells)}\n\n{fidelity}"


def _format_costs(network: Mapping[str, Any], latency: Mapping[str, Any] | None) -> str:
    dense = network["dense"]
    cells = [
        [
            "multiply-accumulates, one image",
            f"{network['macs']:,}",
            f"{dense['macs']:,}",
            f"{network['macs_ratio']:.2%}",
        ],
        ["parameters", f"{network['params']:,}", f"{dense['params']:,}", f"{network['params_ratio']:.2%}"],
    ]
    if network.get("memory_ratio") is not None:
        cells.append(["peak activation memory", "", "", f"{network['memory_ratio']:.2%}"])
    after = ""
    if latency is not None:
        pruned, whole = latency["pruned_ms"], latency["dense_ms"]
        cells.append(["milliseconds a pass", f"{pruned:.3f}", f"{whole:.3f}", f"{pruned / whole:.2%}"])
        after = f"\n\nTime was measured on {latency['where']}, in turns with the dense network, medians."
    return _format_table(["", "this network", "dense", "share"], cells) + after


def _format_loading(run: Run) -> str:
    if is_in_python(run.config):
        kind = run.config.model.factory.rpartition(":")[2]
        call = f"module = blendsearch.load(folder, model=dense)  # dense: the {kind} it was cut from, any weights"
    elif ":" in run.config.model.factory and not run.config.model.factory.startswith("torchvision:"):
        name = run.config.model.factory.rpartition(":")[2]
        call = f"module = blendsearch.load(folder, factory={name})  # from {run.config.model.factory.partition(':')[0]}"
    else:
        call = "module = blendsearch.load(folder)"
    return f"```python\nimport blendsearch\n\n{call}\n```"


def _format_files(files: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for item in files:
        checked = ""
        if item.get("difference") is not None:
            checked = (
                f", whose outputs differ from the module's by {item['difference']:.1e} of their spread "
                f"(allowed: {item['tolerance']:g})"
            )
        lines.append(f"- `{item['name']}`, {item['bytes']:,} bytes{checked}")
    return "\n".join(lines)


def _format_input(spec: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, spec["shape"]))
    if spec["mean"] is None:
        return f"It takes float32 images of shape {shape}, as the searcher's own transform makes them."
    mean, std = (", ".join(f"{value:.4f}" for value in spec[name]) for name in ("mean", "std"))
    return (
        f"It takes float32 images of shape {shape}: pixels scaled to [0, 1], less the mean ({mean}), divided by the "
        f"standard deviation ({std})."
    )


def _format_groups(network: Mapping[str, Any]) -> str:
    groups = network["groups"]
    blends = [_format_blend(group) for group in groups]
    alike = len(set(blends)) == 1
    rows = [
        [f"`{group['group']}`", f"{group['kept']} of {group['channels']}"] + ([] if alike else [blend])
        for group, blend in zip(groups, blends, strict=True)
    ]
    before = f"Channels were ranked by a blend of criteria: {blends[0]}.\n\n" if alike and blends[0] else ""
    pairs = network.get("decomposed") or []
    after = f"\n\nA depthwise and a pointwise convolution in place of one: {', '.join(pairs)}." if pairs else ""
    return before + _format_table(["group", "channels kept"] + ([] if alike else ["whose say"]), rows) + after


def _format_blend(group: Mapping[str, Any]) -> str:
    if "log_alpha" in group:
        return f"LeGR's ranking, log alpha {group['log_alpha']:+.2f}, beta {group['beta']:+.2f}"
    heard = [item for item in group["blend"] or [] if item["part"] >= 0.005]
    named = [f"{item['criterion']} {item['part']:.0%}" for item in heard[:MAX_CRITERIA]]
    return ", ".join(named) + (f", {len(heard) - MAX_CRITERIA} more" if len(heard) > MAX_CRITERIA else "")


def _format_provenance(run: Run, network: Mapping[str, Any]) -> str:
    origin = run.provenance
    packages = ", ".join(f"{name} {version}" for name, version in origin["packages"].items())
    lines = [
        f"cut `{network['cut']}`, seed {network['seed']}",
        f"dense weights SHA-256 `{origin['weights_sha256']}`",
        f"data SHA-256 `{origin['data_sha256']}`",
        f"{packages}, Python {origin['python']}, on {origin['device']}",
        f"command `{shlex.join(origin['command'])}`",
    ]
    if origin["git"]:
        lines.append(f"code at git commit `{origin['git']}`")
    return "\n".join(f"- {line}" for line in lines)


def _format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def format_row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([format_row(titles), format_row(["---"] * len(titles)), *map(format_row, rows)])
