"""Modes of torch that the caller may have changed, set to those that a search needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_default_modes() -> Iterator[None]:
    """Enable gradients, leave inference mode, and make float32 the default inside this context."""
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
