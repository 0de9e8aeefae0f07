"""Trace, cut and verify one network of each family of timm, with random weights.

    python experiments/zoo/timm_sweep.py            # all that timm.json lacks
    python experiments/zoo/timm_sweep.py --models resnet18,convnext_atto --again
    python experiments/zoo/timm_sweep.py --table    # timm.json as the table of docs/zoo.md

For each network: `trace_structure`, then half of the channels of every group (random, at least one), cut by `narrow`.
The narrow network must equal the masked one, have the costs that the oracle predicts, and equal the network that is
rebuilt from its tensors by name, as an exported one is. Images have 64 px a side where the network accepts them, else
its own size.
"""

import argparse
import json
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from sweep import check_structure

RESULT = Path(__file__).with_name("timm.json")

NETWORKS = {
    "byoanet": "botnet26t_256",
    "byobnet": "repvgg_a0",
    "coat": "coat_lite_mini",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cspnet": "cs3darknet_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "test_maxvit",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "mixer_s32_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilevit": "mobilevitv2_050",
    "mvitv2": "mvitv2_tiny",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_26w_4s",
    "resnest": "resnest14d",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnetr_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small",
    "vgg": "vgg11_bn",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vovnet": "ese_vovnet19b_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p8_224",
}
"""One small network of each family, by the module of timm that defines it."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names, separated by commas; default: one of each family")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--limit", type=float, default=400, metavar="SECONDS", help="per network")
    parser.add_argument("--again", action="store_true", help="run networks again that --out has")
    parser.add_argument("--table", action="store_true", help="print --out as Markdown and run nothing")
    asked = parser.parse_args()
    done: dict[str, Any] = json.loads(asked.out.read_text())["models"] if asked.out.exists() else {}
    if asked.table:
        print(format_table(done))
        return
    families = {name: family for family, name in NETWORKS.items()}
    for name in asked.models.split(",") if asked.models else NETWORKS.values():
        if name in done and not asked.again:
            continue
        done[name] = {"family": families.get(name, ""), **run_in_process(name, asked.limit)}
        row = done[name]
        print(name, row["status"], row.get("frozen_groups", ""), row["message"] or row.get("frozen_first"), flush=True)
        asked.out.write_text(
            json.dumps({"packages": list_versions(), "models": dict(sorted(done.items()))}, indent=1) + "\n"
        )


def run_in_process(name: str, limit: float) -> dict[str, Any]:
    import timm  # noqa: F401 (imported once, then forked)

    import blendsearch.structure.trace  # noqa: F401

    server = multiprocessing.get_context("fork")
    here, there = server.Pipe(duplex=False)
    process = server.Process(target=send, args=(name, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(limit):
            return {"status": "error", "message": f"not done after {limit:g} s"}
        result: dict[str, Any] = here.recv()
        return result
    except EOFError:
        process.join()
        return {"status": "error", "message": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def send(name: str, there: Any) -> None:
    try:
        there.send(check_network(name))
    except Exception as error:  # every crash is a result of the sweep
        there.send({"status": "error", "message": f"crash: {type(error).__name__}: {error}"})


def check_network(name: str) -> dict[str, Any]:
    import torch

    from blendsearch.structure.folding import fold_computed_weights

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, side = build(name)
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        kind = key.rpartition(".")[2]
        if kind == "running_var" or (tensor.ndim == 1 and kind in ("weight", "gamma")):
            tensor.data.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and kind in ("running_mean", "bias"):
            tensor.data.uniform_(-0.5, 0.5)
        elif tensor.is_floating_point() and tensor.ndim > 1 and not tensor.any():
            tensor.data.normal_(0, 0.02)
    folded = fold_computed_weights(model, torch.randn(2, 3, side, side))
    return {"side": side, "folded": len(folded), **check_structure(model, side)}


def build(name: str) -> tuple[Any, int]:
    """Build the network for images of 64 px if it accepts them, else of its own size."""
    import timm
    import torch

    for options in ({}, {"img_size": 64}, None):
        try:
            model = timm.create_model(name, pretrained=False, num_classes=10, **(options or {})).eval()
            side = 64 if options is not None else int(model.default_cfg["input_size"][-1])
            with torch.inference_mode():
                model(torch.randn(2, 3, side, side))
            return model, side
        except Exception:
            if options is None:
                raise
    raise AssertionError("the last attempt returns or raises")


def list_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "timm")}


def format_table(models: dict[str, dict[str, Any]]) -> str:
    """Format the counts and one row per network, as Markdown."""
    counts = Counter(row["status"] for row in models.values())
    lines = [
        f"Of {len(models)} families: {counts['ok']} are cut everywhere, {counts['frozen']} with some groups unpruned, "
        f"and {counts['error']} not at all.",
        "",
        "| family | network | px | result | groups cut | unpruned | parameters in reach | MACs at half |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(models.items(), key=lambda item: item[1]["family"]):
        if row["status"] == "error":
            cells = [f"error: {row['message'].replace('|', '/')[:200]}", "", "", "", ""]
        else:
            first = (row.get("frozen_first") or [""])[0].replace("|", "/").partition(" (the pruned")[0]
            cells = [
                "ok" if row["status"] == "ok" else f"ok, some unpruned ({first})",
                str(row["groups"]),
                str(row["frozen_groups"]),
                f"{row['reach']:.1%}",
                f"{row['macs_ratio']:.1%}",
            ]
        lines.append(f"| {row['family']} | {name} | {row.get('side', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
