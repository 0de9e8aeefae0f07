"""Copies of a user's network that share nothing with it: without wrappers, and without hooks.

A copy computes what the network computes, or `copy_network` refuses: functions that are stored in a network, such as a
replaced ``forward``, are shared by its copies and may still call the original.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from blendsearch.errors import ModelError
from blendsearch.task import seed_rngs
from blendsearch.zoo.isolation import isolate

FORWARD_TABLES = ("_forward_hooks", "_forward_pre_hooks")
HOOK_TABLES = (*FORWARD_TABLES, "_backward_hooks", "_backward_pre_hooks")
"""Attributes of a module that hold hooks by number."""


@dataclass(frozen=True)
class NetworkCopy:
    """A copy of a network, on the CPU and in evaluation mode. `hooked`: modules whose hooks it does not run."""

    module: nn.Module
    hooked: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _HookTable:
    """The hooks of one table of the module called `place`; those `left_out` are not torch's own."""

    place: str
    original: OrderedDict[int, Any]
    left_out: dict[int, Any]
    runs_forward: bool
    copied: OrderedDict[int, Any]

    def list_own(self) -> dict[int, Any]:
        """List the hooks by which torch computes weights."""
        return {number: hook for number, hook in self.original.items() if number not in self.left_out}


class _SharedTensorError(Exception):
    """A copy computes with a tensor of the original, whose name is the argument."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside wrappers: of ``torch.compile``, DataParallel and its relatives, AveragedModel."""
    while (inner := _get_wrapped(model)) is not None:
        model = inner
    return model


def copy_network(model: nn.Module, shape: tuple[int, ...] | None = None) -> NetworkCopy:
    """Copy `model` without its wrappers and hooks; the original is never changed.

    With the `shape` of one input, the copy is run: it must not compute with tensors of the original, and leaving hooks
    out must not change its outputs. Hooks that the network needs, and those of torch, are copied. Raises ModelError
    where there is no such copy.
    """
    model = unwrap(model)
    memo: dict[int, Any] = {}
    tables = list(_list_hook_tables(model))
    copied = _deepcopy(model, tables, memo)
    _restore_compiled_forwards(model, memo)
    if shape is not None:
        example = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        tables = _copy_needed_hooks(model, copied, tables, memo, example)
        _check_independence(model, copied, example)
    for parameter in copied.parameters():
        if parameter.dtype.is_floating_point:
            parameter.requires_grad_(True)  # layers frozen for training can be cut, and fine-tuned, like any other
    return NetworkCopy(copied, tuple(dict.fromkeys(table.place for table in tables if table.left_out)))


def _get_wrapped(model: nn.Module) -> nn.Module | None:
    inner: Any = getattr(model, "_orig_mod", None)
    if inner is None and isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        inner = model.module
    return inner if isinstance(inner, nn.Module) else None


def _list_hook_tables(model: nn.Module) -> Iterator[_HookTable]:
    for place, module in model.named_modules():
        for name in HOOK_TABLES:
            table = getattr(module, name)
            if table:
                left_out = {number: hook for number, hook in table.items() if not _is_of_torch(hook)}
                called = place or type(model).__name__
                yield _HookTable(called, table, left_out, name in FORWARD_TABLES, OrderedDict())


def _is_of_torch(hook: Any) -> bool:
    """Return True for the objects by which torch computes weights (spectral norm, weight norm, masks of pruning)."""
    owner = getattr(hook, "__self__", hook)
    return type(owner).__module__.startswith("torch.") and not isinstance(owner, nn.Module)


def _deepcopy(model: nn.Module, tables: list[_HookTable], memo: dict[int, Any]) -> nn.Module:
    """Copy `model` without the hooks that `tables` leave out; `memo` maps its parts to those of the copy."""
    memo |= {id(table.original): table.copied for table in tables}
    try:
        for module in reversed(list(model.modules())):  # the innermost wrapper first
            if _get_wrapped(module) is not None:
                memo[id(module)] = copy.deepcopy(unwrap(module), memo)
        copied: nn.Module = copy.deepcopy(model, memo)
        for table in tables:
            table.copied.update(copy.deepcopy(table.list_own(), memo))
        return copied.cpu().eval()
    except Exception as error:  # a user-defined network may contain anything
        if computed := _find_computed_tensor(model):
            raise ModelError(
                f"{type(model).__name__} holds {computed}, the result of a computation with gradients, and cannot be "
                "copied: detach it, or remove it after use"
            ) from error
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {reason}): a search works on a copy; "
            "give a network without such attributes"
        ) from error


def _find_computed_tensor(model: nn.Module) -> str:
    """Return the name of an attribute that holds the result of a computation with gradients; empty for none."""
    return next(
        (
            f"{place}.{name}" if place else name
            for place, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        ),
        "",
    )


def _restore_compiled_forwards(model: nn.Module, memo: dict[int, Any]) -> None:
    """Let the copy run what ``torch.compile`` wrapped, where it was applied to the forward of a module or a class."""
    for module in model.modules():
        of_class = getattr(type(module).forward, "_torchdynamo_orig_callable", None)
        if of_class is not None and "forward" not in module.__dict__ and id(module) in memo:
            memo[id(module)].__dict__["forward"] = MethodType(of_class, memo[id(module)])
        plain = getattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable", None)
        copied = memo.get(id(module))
        if plain is not None and isinstance(copied, nn.Module) and getattr(plain, "__self__", None) is module:
            del copied.__dict__["forward"]
            if plain.__func__ is not type(module).forward:
                copied.__dict__["forward"] = copy.deepcopy(plain, memo)


def _copy_needed_hooks(
    model: nn.Module, copied: nn.Module, tables: list[_HookTable], memo: dict[int, Any], example: Tensor
) -> list[_HookTable]:
    """Copy the hooks that the network needs, and return the tables of the others.

    Hooks are called once, with copies of the lists that they fill. Raises ModelError for one that cannot be copied.
    """
    forward = [table for table in tables if table.left_out and table.runs_forward]
    if not forward:
        return tables
    expected = _run(model, copied, example, forward, lambda hook: isolate(hook, memo))
    without = _run(model, copied, example)
    if without is not None and (expected is None or _are_equal(without, expected)):
        return tables
    if expected is None:
        raise ModelError(
            f"{type(model).__name__} does not run without the hook on {forward[0].place}, or does not accept one input "
            f"of shape {tuple(example.shape[1:])}: write what the hook does into forward(), or make it a method of the "
            "network"
        )
    owned = [table for table in forward if any(_is_copyable(hook, memo) for hook in table.left_out.values())]
    if not _are_equal(_run(model, copied, example, owned, lambda hook: copy.deepcopy(hook, memo)), expected):
        raise ModelError(
            f"a hook on {forward[0].place} changes what {type(model).__name__} computes, and a search runs no hooks: "
            "write the change into forward(), or remove the hook"
        )
    for table in owned:
        table.copied.update({number: copy.deepcopy(hook, memo) for number, hook in table.left_out.items()})
    return [table for table in tables if table not in owned]


def _is_copyable(hook: Any, memo: dict[int, Any]) -> bool:
    return copy.deepcopy(hook, memo) is not hook


def _run(
    model: nn.Module,
    copied: nn.Module,
    example: Tensor,
    tables: list[_HookTable] | None = None,
    change: Callable[[Any], Any] | None = None,
) -> list[Tensor] | None:
    """Return the copy's outputs with the changed hooks of `tables`, or None where it fails."""
    with ExitStack() as stack:
        for table in tables or ():
            assert change is not None
            stack.enter_context(_use_hooks(table, {number: change(hook) for number, hook in table.left_out.items()}))
        try:
            with seed_rngs(0), torch.no_grad(), _OriginalTensors(model):
                return [leaf for leaf in tree_leaves(copied(example)) if isinstance(leaf, Tensor)]
        except Exception:  # user-defined networks may raise anything
            return None


@contextmanager
def _use_hooks(table: _HookTable, hooks: dict[int, Any]) -> Iterator[None]:
    before = dict(table.copied)
    table.copied.update(hooks)
    try:
        yield
    finally:
        table.copied.clear()
        table.copied.update(before)


def _are_equal(found: list[Tensor] | None, expected: list[Tensor]) -> bool:
    return (
        found is not None
        and len(found) == len(expected)
        and all(
            a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, equal_nan=True)
            for a, b in zip(found, expected, strict=True)
        )
    )


def _check_independence(model: nn.Module, copied: nn.Module, example: Tensor) -> None:
    """Raise ModelError where the copy computes with tensors of `model`. Other failures are reported by the tracing."""
    try:
        with seed_rngs(0), torch.no_grad(), _OriginalTensors(model):
            copied(example)
    except _SharedTensorError as error:
        replaced = [name or type(model).__name__ for name, item in model.named_modules() if "forward" in vars(item)]
        cause = f"the forward of {replaced[0]} was replaced by a function that" if replaced else "a function in it"
        raise ModelError(
            f"a copy of {type(model).__name__} still computes with {error} of the original, as {cause} holds the "
            "network itself: define it as a method of the class, or set types.MethodType(function, module)"
        ) from error
    except Exception:
        return


class _OriginalTensors(TorchFunctionMode):
    """Raises _SharedTensorError for an operation on a parameter or buffer of `model`, before it runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) in self._names:
                raise _SharedTensorError(self._names[id(leaf)])
        return func(*args, **kwargs)
