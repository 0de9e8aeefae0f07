"""Train the base network of a config (its `model.train`) once, so that searches with many seeds share its weights.

    python experiments/base/train.py CONFIG --out weights.safetensors [--set FIELD=VALUE ...]

Writes the weights and, beside the config, a JSON file with the schedule, the splits and the validation accuracy. Test
images are not used. Searches that load the weights must keep the config's `data.split_seed`, so that their validation
images are those that were excluded from training here.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from blendsearch.events import BaseTrained, Event
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.pipeline.problem.base_network import train_base
from blendsearch.pipeline.problem.inputs import build_dense_network, build_splits
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import build_index_maps
from blendsearch.task import Task
from blendsearch.training.device import resolve_device
from blendsearch.training.recovery import Recipe
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_store import FolderStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    splits, model, device = build_splits(config), build_dense_network(config), resolve_device(config.fitness.device)
    start = time.perf_counter()
    precision = config.fitness.precision
    assert config.model.train is not None, "the config has no model.train"

    def print_progress(event: Event) -> None:
        assert isinstance(event, BaseTrained)
        print(f"{event.done:.0%} done, loss {event.loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)

    store = FolderStore(arguments.out.parent)
    train_base(model.to(device), splits, config, Task(), device, print_progress, store)
    recipe = Recipe(512, 100, Schedule(1, 0.01), Schedule(1, 0.01), precision=precision)
    loss, error = Evaluator(model, build_index_maps([], {}), splits, recipe, device).measure(model, "val")
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, arguments.out)
    facts = config.model_dump(mode="json", include={"model", "data", "seed"})
    for key in ("root", "train", "test", "val"):  # no paths of this machine
        facts["data"][key] = facts["data"][key] and f"$DATA/{Path(facts['data'][key]).name}"
    facts = {
        "config": facts,
        "changes": arguments.set,
        "splits": splits.note,
        "val_loss": loss,
        "val_accuracy": 1 - error,
        "seconds": time.perf_counter() - start,
    }
    arguments.config.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"validation accuracy {1 - error:.2%}, loss {loss:.4f}: {arguments.out}")


if __name__ == "__main__":
    main()
