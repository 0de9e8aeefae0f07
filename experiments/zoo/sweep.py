"""Trace, cut and verify every classification network of torchvision, and prune it with Torch-Pruning.

    python experiments/zoo/sweep.py                                  # all of them, about an hour on one core
    python experiments/zoo/sweep.py --models resnet18,vit_b_16 --out some.json
    python experiments/zoo/sweep.py --table                          # sweep.json as the table of docs/zoo.md

blendsearch: attention is folded as in a search. `trace_structure`, then half of the channels of every group (random, at
least one), cut by `narrow`. The narrow network must equal the dense one with the same channels masked (largest
difference below 1e-3 of the outputs' spread), and torch's counts of it must equal the oracle's multiply-accumulates and
parameters. Torch-Pruning: a `BasePruner` with magnitude importance at a ratio of 0.5, the output layers ignored, one
step; the forward pass after it must work and return 1000 classes. Its choice of channels is not checked.

Weights are random, with batch-norms as after training, so that nothing is zero or one by accident. Each network runs in
two separate processes, one thread each, with a time limit. Images have 96 px a side, but 299 for Inception (its
auxiliary classifier needs them) and 224 where the architecture fixes it (ViT, MaxViT).
"""

import argparse
import json
import multiprocessing
import os
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_suffix(".json")
HARMLESS = ("its channels are the network's output", "it runs in training only")
"""Reasons for frozen groups in a network that can be cut everywhere."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="torchvision names, separated by commas; default: all")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="per network and side")
    parser.add_argument("--table", action="store_true", help="print --out as Markdown and run nothing")
    parser.add_argument("--resume", action="store_true", help="keep what --out has and run the rest")
    parser.add_argument("--again", action="store_true", help="run only blendsearch again, on --models")
    arguments = parser.parse_args()
    if arguments.table:
        print(format_table(json.loads(arguments.out.read_text())))
    else:
        names = arguments.models.split(",") if arguments.models else list_models()
        done = json.loads(arguments.out.read_text())["models"] if arguments.resume or arguments.again else {}
        if arguments.again:
            sweep_again(names, arguments.limit, arguments.out, done)
        else:
            sweep(names, arguments.limit, arguments.out, done)


def list_models() -> list[str]:
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def sweep(names: list[str], limit: float, out: Path, results: dict[str, dict[str, Any]]) -> None:
    for name in names:
        if name in results:
            continue
        results[name] = {"side": get_image_side(name)}
        for side in ("ours", "torch_pruning"):
            results[name][side] = run_in_process(side, name, limit)
        row = results[name]
        ours, theirs = format_result(row["ours"]), format_result(row["torch_pruning"])
        print(f"{name}: blendsearch {ours}; Torch-Pruning {theirs}", flush=True)
        results = dict(sorted(results.items()))
        out.write_text(json.dumps({"limit_s": limit, "packages": list_versions(), "models": results}, indent=1) + "\n")


def sweep_again(names: list[str], limit: float, out: Path, results: dict[str, dict[str, Any]]) -> None:
    """Run blendsearch on networks that `results` holds; what Torch-Pruning did stays."""
    for name in names:
        results[name]["ours"] = run_in_process("ours", name, limit)
        print(f"{name}: {format_result(results[name]['ours'])}", flush=True)
        out.write_text(json.dumps({"limit_s": limit, "packages": list_versions(), "models": results}, indent=1) + "\n")


def run_in_process(side: str, name: str, limit: float) -> dict[str, Any]:
    server = multiprocessing.get_context("forkserver")  # imports torch once, then forks
    server.set_forkserver_preload(["torch_pruning", "torchvision", "blendsearch.structure.trace"])
    here, there = server.Pipe(duplex=False)
    process = server.Process(target=send, args=(side, name, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(limit):
            return {"status": "error", "message": f"not done after {limit:g} s", "seconds": limit}
        result: dict[str, Any] = here.recv()
        return result
    except EOFError:
        process.join()
        return {"status": "error", "message": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def send(side: str, name: str, there: Any) -> None:
    try:
        there.send({"ours": check_own, "torch_pruning": check_torch_pruning}[side](name))
    except Exception as error:  # every crash is a result of the sweep
        there.send({"status": "error", "message": f"crash: {type(error).__name__}: {error}"})


def check_own(name: str) -> dict[str, Any]:
    import torch

    from blendsearch.structure.folding import fold_computed_weights

    model, side = make_network(name), get_image_side(name)
    fold_computed_weights(model, torch.randn(2, 3, side, side))
    return check_structure(model, side)


def check_structure(model: Any, side: int) -> dict[str, Any]:
    """Trace a network, cut half of it, compare with the masked network, and load the cut weights into the dense one."""
    import numpy as np
    import torch

    from blendsearch.errors import TraceError
    from blendsearch.structure.cost import count_macs
    from blendsearch.structure.surgery import narrow
    from blendsearch.structure.trace import trace_structure
    from blendsearch.structure.verify import TOLERANCE, mask_channels

    start = time.perf_counter()
    try:
        structure = trace_structure(model, (3, side, side))
    except TraceError as error:
        return {"status": "error", "message": str(error), "seconds": measure_since(start)}
    traced = measure_since(start)
    maps, oracle = structure.maps, structure.oracle
    rng = np.random.default_rng(1)
    cut = np.concatenate([rng.permutation(size) < max(1, size // 2) for size in maps.sizes])
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    small = narrow(model, maps, cut)
    with torch.no_grad():
        expected, found = mask_channels(model, maps, cut)(images), small(images)
    apart = float((expected - found).abs().max() / expected.std())
    loaded = load_into_dense(model, small, maps, cut)
    with torch.inference_mode():
        same = bool(torch.equal(loaded(images), found))
    counts = maps.count_kept(cut)
    macs, params = int(oracle.compute_cost("macs", counts)), int(oracle.compute_cost("params", counts))
    wrong = []
    if not apart <= TOLERANCE:
        wrong.append(f"cut and silenced outputs differ by {apart:.2g} of their spread")
    if macs != count_macs(small, images[:1]):
        wrong.append("the oracle's multiply-accumulates are not those that torch counts")
    if params != sum(parameter.numel() for parameter in small.parameters()):
        wrong.append("the oracle's parameters are not those of the cut network")
    if not same:
        wrong.append("the cut weights loaded into the dense network give other outputs")
    frozen = [item for item in structure.frozen if item.reason not in HARMLESS]
    reasons = Counter(item.reason.partition(" in ")[0] for item in frozen if " in " in item.reason)
    return {
        "status": "error" if wrong else "frozen" if frozen else "ok",
        "message": "; ".join(wrong),
        "groups": len(maps.groups),
        "channels": maps.channels,
        "frozen_groups": len(frozen),
        "frozen_channels": sum(item.channels for item in frozen),
        "frozen_by": dict(reasons.most_common()),
        "frozen_first": [f"{item.name}: {item.reason}" for item in frozen[:2]],
        "reach": round(compute_reach(model, maps), 3),
        "macs_ratio": round(macs / oracle.dense["macs"], 4),
        "params_ratio": round(params / oracle.dense["params"], 4),
        "difference": float(f"{apart:.1e}"),
        "trace_s": traced,
        "seconds": measure_since(start),
    }


def load_into_dense(model: Any, small: Any, maps: Any, cut: Any) -> Any:
    """Rebuild the cut network from its tensors by name and the dense one, as an exported network is loaded."""
    import numpy as np

    from blendsearch.structure.size_attributes import set_sizes
    from blendsearch.structure.surgery import copy_with_tensors

    def list_tensors(module: Any) -> list[Any]:
        return [*module.named_parameters(), *module.named_buffers()]

    stored, names = dict(list_tensors(small)), {id(tensor): name for name, tensor in list_tensors(model)}
    loaded = copy_with_tensors(model, lambda tensor: stored[names[id(tensor)]].detach().clone())
    padded = np.append(cut[: maps.offsets[-1]], True)
    set_sizes(loaded, {name: int(padded[source].sum()) for name, source in maps.list_size_sources().items()})
    return loaded


def compute_reach(model: Any, maps: Any) -> float:
    """Compute the share of all parameters that some cut removes."""
    always = 0
    for name, parameter in model.named_parameters():
        kept = 1.0
        for dim, source in maps.slices.get(name, ()):
            kept *= float((maps.sources[source] < 0).sum()) / parameter.shape[dim]
        always += kept * parameter.numel()
    return 1 - always / sum(parameter.numel() for parameter in model.parameters())


def check_torch_pruning(name: str) -> dict[str, Any]:
    import torch
    import torch_pruning

    from blendsearch.structure.cost import count_macs

    model, side = make_network(name), get_image_side(name)
    example = torch.randn(1, 3, side, side)
    whole = count_macs(model, example)
    outputs = [
        module for module in model.modules() if 1000 in (get_width(module, "features"), get_width(module, "channels"))
    ]
    start = time.perf_counter()
    step = "building its graph"
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=outputs,
        )
        step = "pruning"
        pruner.step()
        step = "the forward pass after pruning"
        with torch.inference_mode():
            shape = tuple(model(example).shape)
    except Exception as error:  # an exception is its result
        line = (str(error) or "no message").splitlines()[0]
        message = f"{step}: {type(error).__name__}: {line}"
        return {"status": "error", "message": message, "seconds": measure_since(start)}
    ratio = round(count_macs(model, example) / whole, 4)
    wrong = f"the output has shape {shape}" if shape != (1, 1000) else "nothing was cut" if ratio == 1 else ""
    status = "error" if wrong else "ok"
    return {"status": status, "message": wrong, "macs_ratio": ratio, "seconds": measure_since(start)}


def get_width(module: Any, of: str) -> int:
    return int(getattr(module, f"out_{of}", 0) or 0)


def make_network(name: str) -> Any:
    import torch

    from blendsearch.zoo.factory import build_model

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():  # ViT's classifier is zero at first, ConvNeXt's scales are 1e-6
        if "layer_scale" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0, 0.02)
    return model


def get_image_side(name: str) -> int:
    return 299 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else 96


def measure_since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def list_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "torchvision", "torch-pruning")}


def format_result(result: dict[str, Any]) -> str:
    if result["status"] == "error":
        return f"error: {result['message']}"
    frozen = f", {result['frozen_groups']} groups frozen" if result.get("frozen_groups") else ""
    return f"ok{frozen}, {result['macs_ratio']:.0%} of MACs, {result['seconds']} s"


def format_table(data: dict[str, Any]) -> str:
    """Format the counts and one row per network, as Markdown."""
    models = data["models"]
    counts = {side: Counter(row[side]["status"] for row in models.values()) for side in ("ours", "torch_pruning")}
    lines = [
        f"Of {len(models)} networks: blendsearch cuts {counts['ours']['ok']} everywhere, "
        f"{counts['ours']['frozen']} with some groups unpruned, and fails on {counts['ours']['error']}; "
        f"Torch-Pruning alone prunes {counts['torch_pruning']['ok']} and fails on {counts['torch_pruning']['error']}.",
        "",
        "| network | px | blendsearch | groups cut | unpruned | parameters in reach | MACs at half | seconds "
        "| Torch-Pruning alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in models.items():
        our, other = row["ours"], row["torch_pruning"]
        if our["status"] == "error":
            cells = [f"error: {our['message']}", "", "", "", "", str(our.get("seconds", ""))]
        else:
            cells = [
                "ok" if our["status"] == "ok" else "ok, some unpruned",
                str(our["groups"]),
                str(our["frozen_groups"]),
                f"{our['reach']:.1%}",
                f"{our['macs_ratio']:.1%}",
                str(our["seconds"]),
            ]
        alone = f"ok, {other['macs_ratio']:.1%} of MACs" if other["status"] == "ok" else f"error: {other['message']}"
        lines.append(f"| {name} | {row['side']} | {' | '.join(cells)} | {alone.replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
