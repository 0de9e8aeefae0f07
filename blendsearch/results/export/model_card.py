"""Model cards of exported networks, in Markdown: accuracy, costs, loading, data and provenance."""

import shlex
from collections.abc import Sequence

from blendsearch.data.input_description import InputDescription
from blendsearch.pipeline.problem.inputs import is_in_python
from blendsearch.results.export.description import ExportDescription, MeasuredLatency
from blendsearch.results.export.formats import WrittenFile
from blendsearch.results.export.int8 import QuantizedFile, describe_int8
from blendsearch.results.formatting import format_budget
from blendsearch.results.network import describe_network
from blendsearch.results.records import FinalRecord, GroupRecord, NetworkDetails, NetworkRecord
from blendsearch.results.summary import describe_training, get_accuracy_name, has_accuracy, summarize_run
from blendsearch.runs.origin import Origin
from blendsearch.runs.run import Run

MAX_CRITERIA = 6
"""Largest number of criteria of a blend that are named."""
MIN_SHARE = 0.005
"""A smaller share of a blend rounds to 0 % and is left out."""


def render_model_card(run: Run, selector: str, facts: ExportDescription, files: Sequence[WrittenFile]) -> str:
    """Render the card of a network; `facts` is its ``network.json``."""
    network = describe_network(run, selector)
    numbers = summarize_run(run)
    dense = numbers.dense[0] if numbers.dense else None
    final = next((row for row in numbers.finals if row.id == network.id), None)
    title = run.config.model.title
    share = f"{network.macs_ratio:.1%} of its multiply-accumulates, {network.params_ratio:.1%} of its parameters"
    parts = [
        "---\nlibrary_name: pytorch\ntags: [channel-pruning, blendsearch]\n---",
        f"# {title}, pruned: {share}",
        f"A network of fewer channels, cut out of a trained {title} by blendsearch "
        f"{run.provenance['packages']['blendsearch']}: network {network.id} of run `{run.name}`, which searched for "
        f"{format_budget(run).replace(chr(160), ' ')} among {run.config.search.evaluations} candidates. Its origin: "
        f"{Origin.parse(network.origin).label}.",
        "## How good it is",
        _format_metrics(run, network, dense, final),
        "## What it costs",
        _format_costs(network, facts.latency),
        "## How to load it",
        _format_loading(run),
        _format_files(files),
        _format_input(facts.input),
        "## Data",
        f"{run.structure['splits']} Validation images chose this network; test images, where there are figures of "
        "them, were looked at once, afterwards.",
        "## How it was cut",
        _format_groups(network),
        "## Where it came from",
        _format_provenance(run, network),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_metrics(run: Run, network: NetworkDetails, dense: NetworkRecord | None, final: FinalRecord | None) -> str:
    rows: list[tuple[str, NetworkRecord | FinalRecord | None]] = [
        ("this network, as the search evaluated it", network),
        ("the dense network", dense),
    ]
    if final is not None:
        rows.insert(0, (f"this network, {describe_training(run)}: these weights", final))
    accuracies, named = has_accuracy(run), get_accuracy_name(run)
    further = list(network.further or {})
    titles = ["", "validation loss", *((f"validation {named}", f"test {named}") if accuracies else ()), *further]
    cells = [[name, *_format_row(row, accuracies, further)] for name, row in rows]
    seeds = "" if final is None or final.seeds == 1 else f" Fine-tuned figures are means over {final.seeds} seeds."
    function = run.structure.get("task", {}).get("evaluate") or run.config.task.evaluate
    by = f" Evaluated by the user-defined function `{function}`." if function else ""
    fidelity = f"Evaluated at fidelity {network.fidelity}, with {run.config.fitness.precision} arithmetic.{by}{seeds}"
    return f"{_format_table(titles, cells)}\n\n{fidelity}"


def _format_row(row: NetworkRecord | FinalRecord | None, accuracies: bool, further: Sequence[str]) -> list[str]:
    if row is None:
        return [""] * (3 if accuracies else 1) + ["nan"] * len(further)
    metrics = [(row.val_loss, ".4f")]
    if accuracies:
        metrics += [(row.val_accuracy, ".2%"), (row.test_accuracy, ".2%")]
    known = (row.further if isinstance(row, NetworkRecord) else None) or {}
    return [
        *("" if value is None else format(value, form) for value, form in metrics),
        *(f"{known.get(name, float('nan')):.4g}" for name in further),
    ]


def _format_costs(network: NetworkDetails, latency: MeasuredLatency | None) -> str:
    dense = network.dense
    cells = [
        [
            "multiply-accumulates, one image",
            f"{network.macs:,}",
            f"{dense['macs']:,}",
            f"{network.macs_ratio:.2%}",
        ],
        ["parameters", f"{network.params:,}", f"{dense['params']:,}", f"{network.params_ratio:.2%}"],
    ]
    if network.memory_ratio is not None:
        cells.append(["peak activation memory", "", "", f"{network.memory_ratio:.2%}"])
    after = ""
    if latency is not None:
        pruned, whole = latency["pruned_ms"], latency["dense_ms"]
        cells.append(["milliseconds a pass", f"{pruned:.3f}", f"{whole:.3f}", f"{pruned / whole:.2%}"])
        if (onnx := latency.get("onnxruntime")) is not None:
            numbers = (onnx["pruned_ms"], onnx["dense_ms"])
            cells.append(["in ONNX Runtime", *(f"{item:.3f}" for item in numbers), f"{numbers[0] / numbers[1]:.2%}"])
        after = f"\n\nTime was measured on {latency['where']}, in turns with the dense network: the fastest of passes."
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


def _format_files(files: Sequence[WrittenFile]) -> str:
    lines = []
    for item in files:
        checked = ""
        if item.difference is not None:
            checked = (
                f", whose outputs differ from the module's by {item.difference:.1e} of their spread "
                f"(allowed: {item.tolerance:g})"
            )
        if isinstance(item, QuantizedFile):
            checked = f", {describe_int8(item)}"
        lines.append(f"- `{item.name}`, {item.bytes:,} bytes{checked}")
    return "\n".join(lines)


def _format_input(spec: InputDescription) -> str:
    shape = " x ".join(map(str, spec["shape"]))
    if spec["mean"] is None or spec["std"] is None:
        return f"It takes float32 images of shape {shape}, as the searcher's own transform makes them."
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (spec["mean"], spec["std"]))
    return (
        f"It takes float32 images of shape {shape}: pixels scaled to [0, 1], less the mean ({mean}), divided by the "
        f"standard deviation ({std})."
    )


def _format_groups(network: NetworkDetails) -> str:
    groups = network.groups
    blends = [_format_blend(group) for group in groups]
    alike = len(set(blends)) == 1
    rows = [
        [f"`{group.group}`", f"{group.kept} of {group.channels}"] + ([] if alike else [blend])
        for group, blend in zip(groups, blends, strict=True)
    ]
    before = f"Channels were ranked by a blend of criteria: {blends[0]}.\n\n" if alike and blends[0] else ""
    pairs = network.decomposed
    after = f"\n\nA depthwise and a pointwise convolution in place of one: {', '.join(pairs)}." if pairs else ""
    return before + _format_table(["group", "channels kept"] + ([] if alike else ["blend"]), rows) + after


def _format_blend(group: GroupRecord) -> str:
    if group.log_alpha is not None and group.beta is not None:
        return f"LeGR's ranking, log alpha {group.log_alpha:+.2f}, beta {group.beta:+.2f}"
    shown = [item for item in group.blend or () if item.part >= MIN_SHARE]
    named = [f"{item.criterion} {item.part:.0%}" for item in shown[:MAX_CRITERIA]]
    return ", ".join(named) + (f", {len(shown) - MAX_CRITERIA} more" if len(shown) > MAX_CRITERIA else "")


def _format_provenance(run: Run, network: NetworkDetails) -> str:
    origin = run.provenance
    packages = ", ".join(f"{name} {version}" for name, version in origin["packages"].items())
    lines = [
        f"cut `{network.cut}`, seed {network.seed}",
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
