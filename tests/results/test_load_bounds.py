"""`blendsearch.load` of a folder from anyone: nothing downloaded, nothing imported, no memory filled; one line each."""

import json
import os
import resource
import shutil
import socket
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.errors import ModelError
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.factory import build_model

EXPORTED = Path(__file__).parents[1] / "golden" / "exported"
DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"
GIB = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of an exported network."""
    return Path(shutil.copytree(EXPORTED, tmp_path / "network"))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the list of attempts to reach the network, each of which fails; nothing is cached."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        tried.append(str(arguments[:1]))
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Limit the address space to 4 GiB above what is in use: a greater allocation raises MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def describe(folder: Path, **changes: Any) -> None:
    """Change fields of the description; None removes one."""
    facts = json.loads((folder / DESCRIPTION).read_text()) | changes
    (folder / DESCRIPTION).write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refuse(folder: Path, message: str, **how: Any) -> str:
    """Return the message, one line, of a refusal that contains `message`."""
    with pytest.raises(ModelError) as raised:
        bs.load(folder, **how)
    text = str(raised.value)
    assert message in text and "\n" not in text and len(text) < 1500
    return text


def test_an_unchanged_folder_is_loaded(folder: Path) -> None:
    assert bs.load(folder)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("torchvision:fcn_resnet50", {}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
        ("torchvision:lraspp_mobilenet_v3_large", {"progress": True}),
        ("torchvision:ssdlite320_mobilenet_v3_large", {}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("torchvision:resnet18", {"pretrained": True}),
        ("torchvision:fcn_resnet50", {"pretrained": True, "pretrained_backbone": True}),
    ],
)
def test_nothing_is_downloaded(factory: str, arguments: dict[str, Any], folder: Path, downloads: list[str]) -> None:
    describe(folder, factory=factory, arguments=arguments)
    refuse(folder, "does not fit")  # the weights are those of another network
    builder = torchvision.models.get_model_builder(factory.removeprefix("torchvision:"))
    refuse(folder, "does not fit", factory=builder)
    assert not downloads


def test_networks_with_arguments_for_downloads_are_loaded_without(tmp_path: Path, downloads: list[str]) -> None:
    dense = torchvision.models.squeezenet1_1()
    save_file(dict(dense.named_parameters()), tmp_path / WEIGHTS)
    facts = {"format": 1, "factory": "torchvision:squeezenet1_1", "arguments": {"weights": "DEFAULT"}}
    (tmp_path / DESCRIPTION).write_text(json.dumps(facts))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(bs.load(tmp_path)(image), dense.eval()(image))
        again = bs.load(tmp_path, factory=torchvision.models.squeezenet1_1)
        assert torch.equal(again(image), dense(image))
    assert not downloads


def test_default_backbones_of_configs_are_not_downloaded(downloads: list[str]) -> None:
    assert build_model("torchvision:fcn_resnet50")
    assert not downloads
    with pytest.raises(ModelError, match="no network"):  # asked for by name
        build_model("torchvision:resnet18", {"weights": "DEFAULT"})
    assert downloads


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("digits_net", {"width": 4000}, "more than 100,000,000 parameters"),
        ("digits_net", {"width": 10**9}, "does not fit into memory"),
        ("digits_net", {"width": 10**30}, "could not be built"),
        ("digits_net", {"width": 0}, "without channels"),
        ("digits_net", {"width": -4}, "could not be built"),
        ("digits_net", {"width": 4.5}, "could not be built"),
        ("digits_net", {"width": "4"}, "could not be built"),
        ("digits_net", {"width": [4]}, "could not be built"),
        ("digits_net", {"width": None}, "could not be built"),
        ("digits_net", {"classes": 10**12}, "does not fit into memory"),
        ("digits_net", {"depth": 3}, "could not be built"),
        ("digits_net", {"x" * 10**6: 3}, "could not be built"),
        ("digits_net", {"self": 3}, "could not be built"),
        ("cifar_resnet", {"depth": 6 * 10**6 + 2}, "more than 10,000 layers"),
        ("cifar_resnet", {"depth": 20, "width": 10**4}, "more than 100,000,000 parameters"),
        ("torchvision:resnet18", {"num_classes": 10**9}, "more than 100,000,000 parameters"),
        ("torchvision:vit_b_16", {"image_size": 80_000}, "more than 100,000,000 parameters"),
        ("torchvision:regnet_x_400mf", {"num_classes": 10**6}, "more than 100,000,000 parameters"),
        ("torchvision:resnet18", {"norm_layer": "os.getcwd"}, "could not be built"),
    ],
)
def test_sizes_are_bounded_before_memory_is_used(
    factory: str, arguments: dict[str, Any], message: str, folder: Path, small_memory: None
) -> None:
    describe(folder, factory=factory, arguments=arguments)
    refuse(folder, message)


def test_sizes_are_bounded_for_your_own_factory_too(folder: Path, small_memory: None) -> None:
    describe(folder, factory="mine:net", arguments={"width": 4000})
    refuse(folder, "more than 100,000,000 parameters", factory=digits_net)
    describe(folder, arguments={"width": 4, "other": 1})
    refuse(folder, "unexpected keyword", factory=digits_net)
    describe(folder, arguments={"width": 4})
    assert bs.load(folder, factory=digits_net)
    refuse(folder, "expected a torch.nn.Module", factory=lambda width: width)


@pytest.mark.parametrize("name", ["os:getcwd", "blendsearch.zoo.digits_net:digits_net", "torchvision.models:resnet18"])
def test_no_name_in_a_file_is_imported(name: str, folder: Path) -> None:
    describe(folder, factory=name)
    refuse(folder, "is not imported from a file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b" " * (2**24 + 1), "larger than 16,777,216 bytes"),
        (b'{"format": 1, "format": 1}', "appears twice"),
        (b'{"format": \xff}', "not UTF-8"),
        (b'{"format": NaN}', "NaN"),
        (b'{"format": 1, "val_loss": 1e999}', "range of numbers"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "digits"),
        (b'{"format": 1' + b"0" * 50 + b"}", "does not describe"),
        (b"", "Expecting value"),
        (b"\0" * 100, "Expecting value"),
        (b"[]", "does not describe"),
        (b"{}", "does not describe"),
        (b'{"format": true}', "does not describe"),
        (b'{"format": 5}', "newer"),
        (b'{"format": 1}', "factory is not a name"),
        (b'{"format": 1, "factory": "digits_net"}', "arguments is not an object"),
        (b"\x80\x04\x95", "not UTF-8"),
    ],
)
def test_other_descriptions_are_refused(content: bytes, message: str, folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    refuse(folder, message)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "x", [], {}, [[]], ["a", 1], "a\nb", "x" * 10**6])
@pytest.mark.parametrize("field", ["factory", "arguments", "decomposed", "input"])
def test_fields_of_other_types_are_refused(field: str, value: Any, folder: Path) -> None:
    if (field, value) in (("decomposed", []), ("arguments", {}), ("input", {})):
        value = ["."]
    describe(folder, **{field: value})
    refuse(folder, "")


@pytest.mark.parametrize("shape", [[1, 8], [1, 8, 0], [1, 8, -8], [1, 8, 8.0], [1, 8, True], [1, 8, 10**12], "188", 3])
def test_other_input_shapes_are_refused(shape: Any, folder: Path) -> None:
    describe(folder, input={"shape": shape})
    refuse(folder, "input.shape is not 3 positive numbers")


def test_an_enormous_input_is_not_tried(folder: Path, small_memory: None) -> None:
    describe(folder, input={"shape": [1, 10**6, 10**6]})
    assert bs.load(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem.0.weight", torch.full((3, 1, 3, 3), float("nan")), "NaN or infinity in stem.0.weight"),
        ("stem.1.bias", torch.full((3,), float("inf")), "NaN or infinity in stem.1.bias"),
        ("stem.1.running_var", torch.full((3,), -1.0), "negative variances in stem.1.running_var"),
        ("stem.1.running_mean", torch.full((3,), -float("inf")), "NaN or infinity in stem.1.running_mean"),
        ("stem.0.weight", torch.zeros(2, 1, 3, 3), "the tensors of stem.1 do not fit"),
        ("stem.0.weight", torch.zeros(0, 1, 3, 3), "stem.0.weight has shape (0, 1, 3, 3), expected"),
        ("stem.0.weight", torch.zeros(5, 1, 3, 3), "stem.0.weight has shape (5, 1, 3, 3), expected"),
        ("stem.0.weight", torch.zeros(3, 1, 3), "stem.0.weight has shape (3, 1, 3), expected"),
        ("stem.0.weight", torch.zeros(3, 1, 3, 2), "stem.0.weight has shape (3, 1, 3, 2), expected"),
        ("stem.0.weight", torch.zeros(3, 1, 3, 3, dtype=torch.float64), "stem.0.weight is torch.float64, expected"),
        ("stem.0.weight", torch.zeros(3, 1, 3, 3, dtype=torch.int8), "stem.0.weight is torch.int8, expected"),
        ("classifier.weight", torch.zeros(10, 7), "the tensors of classifier do not fit"),
        ("stem.2.weight", torch.zeros(3), "it has no stem.2.weight"),
        ("x" * 10**5, torch.zeros(3), "it has no xxx"),
        ("stem.0.weight", None, "stem.0.weight is missing"),
        ("stem.1.num_batches_tracked", None, "stem.1.num_batches_tracked is missing"),
    ],
)
def test_other_tensors_are_named(name: str, value: Tensor | None, message: str, folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop(name) if value is None else tensors.update({name: value}))
    refuse(folder, message)


def test_no_tensors_at_all_are_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.clear())
    refuse(folder, "is missing")


def make_safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


HUGE = json.dumps(
    {"stem.0.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        make_safetensors(b"{}", 10**15),
        make_safetensors(b"{}", 2**64 - 1),
        make_safetensors(b"{}", 1),
        make_safetensors(b"[" * 10**5),
        make_safetensors(b"\xff" * 100),
        make_safetensors(HUGE),
        make_safetensors(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}', None, b"\0" * 8),
        make_safetensors(b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', None, b"\0" * 8),
        make_safetensors(b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}', None, b"\0" * 8),
        (EXPORTED / WEIGHTS).read_bytes()[:-1],
        (EXPORTED / WEIGHTS).read_bytes()[:200],
        (EXPORTED / WEIGHTS).read_bytes() + b"\0",
        b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    ],
)
def test_damaged_weights_are_refused(content: bytes, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(content)
    refuse(folder, "is damaged: weights.safetensors")


def test_a_sparse_file_that_fills_no_memory(folder: Path, small_memory: None) -> None:
    """A terabyte of zeros takes no space on the disk, and is refused by its header."""
    end = 4 * 2**38
    header = json.dumps({"stem.0.weight": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, end]}}).encode()
    with open(folder / WEIGHTS, "wb") as file:
        file.write(make_safetensors(header))
        file.truncate(8 + len(header) + end)
    refuse(folder, "")


def test_files_that_are_no_files_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        (folder / name).unlink()
        refuse(folder, "is not there")
        os.mkfifo(folder / name)  # opening it would wait
        refuse(folder, "")
        (folder / name).unlink()
        (folder / name).mkdir()
        refuse(folder, "")
        (folder / name).rmdir()
        shutil.copy(EXPORTED / name, folder / name)
    refuse(tmp_path / "absent", "is not there")
    refuse(folder / DESCRIPTION, "is not there")
    refuse(folder / "a\0b", "")
    assert bs.load(folder)


def test_your_own_network_is_checked_and_stays_as_it_was(folder: Path) -> None:
    dense = digits_net(width=4)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    assert bs.load(folder, model=dense) and dense.training
    change_weights(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(10, 7)}))
    refuse(folder, "the tensors of classifier do not fit", model=dense)
    assert dense.training and all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
    refuse(folder, "does not fit", model=digits_net(width=2))
    refuse(folder, "does not fit", model=nn.Linear(2, 2))


def test_masks_of_infinity_are_values(folder: Path) -> None:
    """A buffer of infinity that is no statistic, such as a mask, is part of a network."""

    def masked(width: int) -> nn.Module:
        net = digits_net(width=width)
        net.register_buffer("mask", torch.full((2,), -float("inf")))
        return net

    change_weights(folder, lambda tensors: tensors.update(mask=torch.full((2,), -float("inf"))))
    assert bs.load(folder, factory=masked)
    change_weights(folder, lambda tensors: tensors.update(mask=torch.full((2,), float("nan"))))
    refuse(folder, "in mask", factory=masked)
