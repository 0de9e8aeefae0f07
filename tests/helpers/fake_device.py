"""A CUDA device without a card: real CPU tensors, of which some are marked as being on the card.

    with use_fake_card() as card:
        ...  # code that moves tensors to torch.device("cuda", 0)

A tensor is on the card if `.to`, `.cuda` or a `device=` of a factory put it there, or if it was computed from one that
is. `Tensor.device` says so, and an operation on tensors of both devices raises DeviceMismatch, with torch's exceptions:
zero-dimensional CPU tensors mix with everything, and CPU tensors may index. A tensor on the card has no `.numpy()`.
Values are those of the CPU, so results can be compared with a run on the CPU. Streams do nothing, and graphs are
those of fake_graph.py. Not simulated: missing or different kernels, memory limits, other threads and processes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from fake_graph import FakeGraph, list_tensors, record
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from blendsearch.data import batches

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")


class DeviceMismatch(RuntimeError):
    """An operation on tensors of two devices, or NumPy access to a tensor on the card."""


class Placement:
    """The storages that are on the card."""

    def __init__(self) -> None:
        self._on_card: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being used again

    def has(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and self._address(tensor) in self._on_card

    def knows(self, tensor: Tensor) -> bool:
        """Return False for a tensor without a storage, such as the wrappers of torch.func."""
        return self._address(tensor) is not None

    def put(self, tensor: Tensor) -> None:
        if tensor.device.type == "cpu" and (address := self._address(tensor)) is not None:
            self._on_card[address] = StorageWeakRef(tensor.untyped_storage())

    def take(self, tensor: Tensor) -> None:
        self._on_card.pop(self._address(tensor), None)  # type: ignore[arg-type]

    @staticmethod
    def _address(tensor: Tensor) -> int | None:
        try:
            return tensor.untyped_storage()._cdata
        except (RuntimeError, NotImplementedError):  # wrappers of torch.func and sparse tensors
            return None


class _Propagation(TorchDispatchMode):
    """Marks the outputs of operations on marked tensors, in the backward pass and inside torch's functions too."""

    def __init__(self, placement: Placement) -> None:
        super().__init__()
        self.placement = placement

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
            if any(self.placement.has(tensor) for tensor in list_tensors((args, kwargs))):
                for tensor in list_tensors(out):
                    self.placement.put(tensor)
        return out


def _is_card(value: object) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.split(":")[0] == "cuda"
    )


class FakeCard(TorchFunctionMode):
    """The mode that answers for the device of tensors and checks every call.

    Attributes
    ----------
    moved: number of tensors that were moved to the card.
    checked: number of calls with a tensor on the card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement()
        self.propagation = _Propagation(self.placement)
        self.moved = self.checked = 0

    def __enter__(self) -> "FakeCard":
        self.propagation.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.propagation.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self, func, args, kwargs or {})
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation, with a card in its arguments replaced by the CPU and the outputs marked."""
        inputs = list_tensors((args, kwargs))
        here = any(self.placement.has(tensor) for tensor in inputs)
        self.checked += here
        if here and func not in _CROSSING:
            self.check(func, inputs, args)
        flat = tree_flatten((args, kwargs))[0]
        named = any(_is_card(leaf) for leaf in flat)
        explicit = named or isinstance(kwargs.get("device"), torch.device | str)
        args, kwargs = tree_map(lambda leaf: CPU if _is_card(leaf) else leaf, (args, kwargs))
        out = func(*args, **kwargs)
        made = list_tensors(out)
        if named:
            self.moved += len(made)
        for tensor in made:
            if named:
                self.placement.put(tensor)
            elif explicit and not any(tensor is given for given in inputs):
                self.placement.take(tensor)
        return out

    def check(self, func: Any, inputs: list[Tensor], args: Any) -> None:
        """Raise DeviceMismatch unless all inputs can meet in one operation."""
        if func in _INDEXING and self.placement.has(args[0]):
            inputs = [args[0], *list_tensors(args[2:])]  # CPU tensors may index
        strangers = [tensor for tensor in inputs if not self.placement.has(tensor) and tensor.dim() > 0]
        strangers = [tensor for tensor in strangers if tensor.device.type == "cpu" and self.placement.knows(tensor)]
        if strangers:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in strangers)
            name = getattr(func, "__name__", str(func))
            raise DeviceMismatch(f"{name}: tensors on cuda:0 and on the CPU (of shapes {shapes}) in one operation")

    def move(self, tensor: Tensor, to_card: bool, convert: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `tensor` after `convert` on one device; a copy if it was on the other."""
        was_on_card = self.placement.has(tensor)
        out = convert(tensor)
        if was_on_card == to_card:
            return out
        self.moved += to_card
        if out.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            out = out.clone()
        (self.placement.put if to_card else self.placement.take)(out)
        return out


def _get_device(card: FakeCard, func: Any, args: Any, kwargs: Any) -> torch.device:
    return CARD if card.placement.has(args[0]) else func(*args)


def _is_cuda(card: FakeCard, func: Any, args: Any, kwargs: Any) -> bool:
    return card.placement.has(args[0])


def _is_cpu(card: FakeCard, func: Any, args: Any, kwargs: Any) -> bool:
    return func(*args) and not card.placement.has(args[0])


def _get_device_index(card: FakeCard, func: Any, args: Any, kwargs: Any) -> int:
    return 0 if card.placement.has(args[0]) else func(*args)


def _move_to(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    tensor, words = args[0], [*args[1:], *kwargs.values()]
    target = card.placement.has(tensor)
    for word in words:
        if _is_card(word):
            target = True
        elif isinstance(word, Tensor):
            target = card.placement.has(word)
        elif isinstance(word, torch.device | str):
            if torch.device(word).type != "cpu":  # the meta device
                return func(*args, **kwargs)
            target = False
    plain, plain_kwargs = tree_map(lambda leaf: CPU if _is_card(leaf) else leaf, (args[1:], kwargs))
    return card.move(tensor, target, lambda given: func(given, *plain, **plain_kwargs))


def _move_to_card(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    return card.move(args[0], True, lambda given: given)


def _move_to_cpu(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    return card.move(args[0], False, lambda given: given)


def _refuse_numpy(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Any:
    if card.placement.has(args[0]) and not kwargs.get("force"):
        raise DeviceMismatch("numpy: can't convert a tensor on cuda:0 to numpy; use .cpu() first")
    return func(*args, **kwargs)


def _call_unchecked(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _copy_values(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Copy values from any device: the tensor stays on its own."""
    on_card = card.placement.has(args[0])
    out = func(*args, **kwargs)
    (card.placement.put if on_card else card.placement.take)(args[0])
    return out


def _pin(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Tensor:
    if card.placement.has(args[0]):
        raise DeviceMismatch("pin_memory: only tensors on the CPU can be pinned")
    return args[0]


def _make_of_tensor(card: FakeCard, func: Any, args: Any, kwargs: Any) -> Any:
    """Make a tensor by one of `Tensor.new_*` and `torch.*_like`, on the device of the tensor without `device=`."""
    wanted = kwargs.get("device")
    target = card.placement.has(args[0]) if wanted is None else _is_card(wanted)
    if wanted is not None and torch.device(wanted).type == "meta":
        return func(*args, **kwargs)
    out = func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
    (card.placement.put if target else card.placement.take)(out)
    return out


_LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
_NEW = ("new", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
_SPECIAL: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: _get_device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: _is_cpu,  # type: ignore[attr-defined]
    Tensor.get_device: _get_device_index,
    Tensor.to: _move_to,
    Tensor.cuda: _move_to_card,
    Tensor.cpu: _move_to_cpu,
    Tensor.numpy: _refuse_numpy,
    Tensor.__array__: _refuse_numpy,
    Tensor.copy_: _copy_values,
    Tensor.tolist: _call_unchecked,
    Tensor.data.__set__: _call_unchecked,  # type: ignore[attr-defined]
    torch.device: _call_unchecked,
    torch._C._nn._parse_to: _call_unchecked,
    torch._has_compatible_shallow_copy_type: _call_unchecked,
    Tensor.pin_memory: _pin,
    **{getattr(torch, name): _make_of_tensor for name in _LIKE},
    **{getattr(Tensor, name): _make_of_tensor for name in _NEW},
}
_CROSSING = {Tensor.__deepcopy__, Tensor.type, Tensor.untyped_storage, Tensor.storage}
"""Operations that may see tensors of both devices."""
_INDEXING = {Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put_, Tensor.index_put}


@contextmanager
def use_fake_card() -> Iterator[FakeCard]:
    """Run the code inside as if the machine had one CUDA device."""
    card = FakeCard()
    with ExitStack() as stack:
        for patch in _list_patches(card):
            stack.enter_context(patch)
        batches._resident.clear()  # images that an earlier card kept
        stack.callback(batches._resident.clear)
        yield stack.enter_context(card)


def _list_patches(card: FakeCard) -> list[Any]:
    """Replace what needs a driver, and what asks tensors for their device in C++."""
    states = {"rng": torch.Generator().manual_seed(0).get_state()}
    run_backward, make_autocast = torch.autograd._engine_run_backward, torch.autocast.__init__
    group_by_device = torch._C._group_tensors_by_device_and_dtype

    def backward_under_the_mode(*args: Any, **kwargs: Any) -> Any:
        with card:  # torch takes the mode off before it runs backward, and hooks run inside
            return run_backward(*args, **kwargs)

    def autocast_on_the_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        make_autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def group(lists: list[list[Any]], *args: Any) -> dict[Any, Any]:
        grouped = group_by_device(lists, *args)
        return {
            (CARD if card.placement.has(found[0][0]) else device, dtype): (found, order)
            for (device, dtype), (found, order) in grouped.items()
        }

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "device": lambda device: nullcontext(),
        "Stream": lambda device=None: mock.MagicMock(),
        "CUDAGraph": FakeGraph,
        "stream": lambda stream: nullcontext(),
        "graph": record,
        "current_stream": lambda device=None: mock.MagicMock(),
        "get_device_name": lambda device=None: "fake card",
        "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "set_per_process_memory_fraction": lambda fraction, device=None: None,
        "get_rng_state": lambda device=None: states["rng"].clone(),
        "set_rng_state": lambda state, device=None: states.update(rng=_check_state(card, state)),
        "manual_seed_all": lambda seed: states.update(rng=torch.Generator().manual_seed(seed).get_state()),
    }
    return [
        *(mock.patch.object(torch.cuda, name, answer) for name, answer in answers.items()),
        mock.patch.object(torch.accelerator, "current_accelerator", return_value=None),
        mock.patch.object(torch.autograd, "_engine_run_backward", backward_under_the_mode),
        mock.patch.object(torch.autocast, "__init__", autocast_on_the_cpu),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", group),
    ]


def _check_state(card: FakeCard, state: Tensor) -> Tensor:
    if state.is_cuda or card.placement.has(state):
        raise DeviceMismatch("set_rng_state: the state must be a tensor on the CPU")
    return state.clone()
