"""Builders of the networks of torchvision and timm, by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial

from torch import nn

from blendsearch.errors import ModelError
from blendsearch.extras import format_missing

TIMM_NAME = re.compile(r"[A-Za-z0-9_.]+")
"""A name of timm's registry; others select a hub or a folder."""

FILE_ARGUMENTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments by which timm reads files or chooses where to download from."""


def find_torchvision_builder(name: str) -> Callable[..., nn.Module]:
    """Return torchvision's builder called `name`. Raises ModelError, with similar names, where there is none."""
    from torchvision.models import get_model_builder, list_models

    try:
        builder: Callable[..., nn.Module] = get_model_builder(name)
    except ValueError as error:
        hint = _suggest(name, list_models())
        raise ModelError(f"torchvision has no model {name!r}: {hint}see torchvision.models.list_models()") from error
    return builder


def find_timm_builder(name: str) -> Callable[..., nn.Module]:
    """Return timm's builder for `name`, such as ``resnet18`` or ``resnet18.a1_in1k``. Raises ModelError."""
    try:
        import timm
    except ImportError as error:
        raise ModelError(format_missing(f"model timm:{name}", "timm")) from error
    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        hint = _suggest(name.partition(".")[0], timm.list_models())
        raise ModelError(f"timm has no model {name[:80]!r}: {hint}see timm.list_models()")
    return partial(timm.create_model, name)


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 3)
    return f"did you mean {', '.join(near)}? " if near else ""
