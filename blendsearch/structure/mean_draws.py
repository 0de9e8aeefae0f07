"""Random numbers replaced by their means: two networks of different widths then draw the same ones."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from blendsearch.structure.eager_mode import EagerMode
from blendsearch.task import seed_rngs


class _MeanDraws(EagerMode):  # type: ignore[no-untyped-call]
    """Executes random operations as their means; other random operations run as usual."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        draw = _MEANS.get(func._schema.name.partition("::")[2]) if is_random else None
        if draw is not None:
            return draw(func, args, dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def use_mean_draws(seed: int) -> Iterator[None]:
    """Replace random tensors by their means, and seed the generators of Python, NumPy and torch, inside this context.

    Dropout that stays on in evaluation mode then has no effect, in a network of any width.
    """
    with seed_rngs(seed), _MeanDraws():  # type: ignore[no-untyped-call]
        yield


def _fill_probability(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return args[0].copy_(probability) if isinstance(probability, torch.Tensor) else args[0].fill_(probability)


def _return_probability(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    probability = args[1] if len(args) > 1 else kwargs.get("p")
    return args[0].clone() if probability is None else torch.full_like(args[0], probability)


def _keep_all(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)


def _fill_uniform(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
    high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
    return args[0].fill_((low + high) / 2)


def _return_mean(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.zeros_like(func(*args, **kwargs)).add_(args[0])


def _fill_normal(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("mean", 0.0))


def _make_constant(value: float) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
    def draw(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs).fill_(value)

    return draw


_MEANS: Mapping[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {
    "bernoulli": _return_probability,
    "bernoulli_": _fill_probability,
    "native_dropout": _keep_all,
    "uniform_": _fill_uniform,
    "normal": _return_mean,
    "normal_": _fill_normal,
    "rand": _make_constant(0.5),
    "rand_like": _make_constant(0.5),
    "randn": _make_constant(0.0),
    "randn_like": _make_constant(0.0),
}
