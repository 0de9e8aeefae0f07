"""Import of user-defined functions by name.

Importing a module runs its code. Callers pass only names that the user wrote, or a run that the user trusts.
"""

import importlib
from collections.abc import Callable
from typing import Any

from blendsearch.errors import ConfigError, format_error


def import_function(name: str, field: str) -> Callable[..., Any]:
    """Import ``module:function``, which the config names in `field`. Raises ConfigError where there is none."""
    place, _, attribute = name.rpartition(":")
    try:
        found = getattr(importlib.import_module(place), attribute)
    except Exception as error:  # user-defined modules may raise anything
        raise ConfigError(
            f"{field}: {name!r} could not be imported ({format_error(error)}); expected module:function"
        ) from error
    if not callable(found):
        raise ConfigError(f"{field}: {name!r} is a {type(found).__name__}, expected a function")
    function: Callable[..., Any] = found
    return function
