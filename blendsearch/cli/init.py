"""The verb init: write a commented config."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blendsearch.errors import ConfigError
from blendsearch.json_output import format_json

if TYPE_CHECKING:
    from blendsearch.zoo.recognition import Recognized

TEMPLATE = """\
# A search by blendsearch: blendsearch search {file}
# Every field: docs/reference/config.md; for completion in an editor: blendsearch schema --out blendsearch.schema.json
# yaml-language-server: $schema=blendsearch.schema.json

model:
{model}
data:
{data}
budget: {budget}            # of MACs; or a range: [20%, 50%]; or several: {{macs: 50%, params: 60%, latency: 80%}}

criteria:
  pool: []               # the importance criteria; [] uses all of them, see: blendsearch criteria

fitness:
  fidelity: recalibrated # raw, recalibrated (batch-norm statistics), or tuned (a short fine-tune of each candidate)
  against: auto          # evaluated by the divergence from the unpruned network, and after training by the labels
  device: auto           # cpu, cuda, or auto

search:
  evaluations: 200       # candidates; more find better networks

finals:
  picks: auto            # the best networks are trained at the end; 0 leaves them as the search evaluated them
  tuning: {{epochs: 40}}   # the long fine-tune of each of them

seed: 0
"""
UNKNOWN = """\
  factory: my_module:make_network   # TODO: a function in my_module.py that returns your torch.nn.Module"""


def init(arguments: argparse.Namespace) -> None:
    path = arguments.out or Path("config.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists: name another file by --out, or delete it")
    text, notes = _copy_example(arguments) if arguments.example else _describe(arguments, path)
    complete = "TODO" not in text
    if complete:
        _check(text, path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    if arguments.json:
        print(format_json({"config": str(path), "complete": complete, "notes": notes}))
        return
    for note in notes:
        print(note)
    step = f"blendsearch search {path}" if complete else f"fill in the lines with TODO in {path}"
    print(f"config: {path}; next: {step}")


def _copy_example(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from blendsearch.runs.config.loading import EXAMPLES

    if arguments.checkpoint or arguments.data or arguments.model:
        raise ConfigError("--example has its own network and data: leave out CHECKPOINT, --data and --model")
    return EXAMPLES[arguments.example].read_text(encoding="utf-8"), []


def _describe(arguments: argparse.Namespace, path: Path) -> tuple[str, list[str]]:
    """Describe the user's network and data as a config, with notes on what was recognized."""
    data, notes = _describe_data(arguments.data)
    model, more = _describe_model(arguments)
    budget = _format_budget(arguments.budget)
    return TEMPLATE.format(file=path, model=model, data=data, budget=budget), [*more, *notes]


def _check(text: str, path: Path) -> None:
    """Raise ConfigError where the config would be refused, such as for a wrong budget."""
    from blendsearch.runs.config.loading import parse_config
    from blendsearch.runs.config.names import check_names
    from blendsearch.runs.yaml_parsing import parse_yaml

    check_names(parse_config(parse_yaml(text), str(path)))


def _format_budget(text: str) -> str:
    return f"[{text}]" if "," in text and not text.startswith("[") else text


def _describe_model(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Describe the section of the model, and its facts."""
    checkpoint: Path | None = arguments.checkpoint
    if checkpoint is None:
        factory = arguments.model or "digits_net"
        return f"  factory: {factory}\n  train: {{epochs: 20, rate: 0.1}}   # or weights: FILE", []
    weights = f"  weights: {json.dumps(str(checkpoint))}"
    if arguments.model is not None:
        return f"  factory: {arguments.model}\n{weights}", []
    found = _recognize(checkpoint)
    if found is None:
        note = (
            f"the network of {checkpoint} is not one of the zoo or of torchvision: name its function in model.factory"
        )
        return f"{UNKNOWN}\n{weights}", [note]
    given = ", ".join(f"{name}: {value}" for name, value in found.arguments.items())
    lines = [f"  factory: {found.factory}", *([f"  arguments: {{{given}}}"] if given else []), weights]
    return "\n".join(lines), [f"{checkpoint} is {found.factory}" + (f" ({given})" if given else "")]


def _recognize(checkpoint: Path) -> "Recognized | None":
    from blendsearch.zoo.recognition import recognize_weights

    return recognize_weights(checkpoint)


def _describe_data(folder: Path | None) -> tuple[str, list[str]]:
    """Describe the section of the data by the names of files and folders in `folder`."""
    if folder is None:
        return "  dataset: digits\n  val_size: 0.3          # the share of the training images that validates\n", []
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: --data expects one with train and test, or with .npz files")
    facts: dict[str, Any] = {}
    archives = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    if {"train", "test"} <= archives.keys():
        facts = {"dataset": "npz", "train": str(archives["train"]), "test": str(archives["test"])}
    elif (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("test", "val")):
        facts = {"dataset": "image-folder", "root": str(folder)}
        if all((folder / name).is_dir() for name in ("test", "val")):
            facts["val"] = "val"
        facts |= {"image_size": 224, "transforms": "imagenet"}
    elif (folder / "cifar-10-batches-py").is_dir():
        facts = {"dataset": "cifar10", "root": str(folder), "transforms": "cifar"}
    elif (folder / "cifar-100-python").is_dir():
        facts = {"dataset": "cifar100", "root": str(folder), "transforms": "cifar"}
    else:
        raise ConfigError(
            f"{folder} has no data that is recognized: expected train and test folders with one folder per class, "
            "train.npz and test.npz, or CIFAR's own folders"
        )
    lines = [f"  {name}: {json.dumps(value)}" for name, value in facts.items()]
    if "val" not in facts:
        lines += ["  val_size: 0.1          # the share of the images of val_from that validates"]
        lines += ["  val_from: train        # test, where the weights were trained on every training image"]
    return "\n".join(lines) + "\n", [f"{folder} is read as {facts['dataset']}"]
