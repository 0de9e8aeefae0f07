"""Import of user-defined functions by name.

Importing a module runs its code. Callers pass only names that the user wrote, or a run that the user trusts.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from blendsearch.errors import ConfigError, format_error

_folder: str | None = None


def set_module_folder(folder: str) -> None:
    """Let user-defined modules be imported from `folder`, which then comes first.

    It joins Python's path with the first user-defined module, not before: a folder that came with somebody else's run
    may hold a file with the name of an installed package, and reading the run must not import it.
    """
    global _folder
    _folder = folder


def import_user_module(name: str) -> ModuleType:
    """Import the user-defined module `name`. Raises whatever its code raises."""
    _extend_path()
    return importlib.import_module(name)


def find_user_module(name: str) -> ModuleSpec | None:
    """Find the user-defined module `name`; its packages are imported, as by `import_user_module`."""
    _extend_path()
    return importlib.util.find_spec(name)


def _extend_path() -> None:
    if _folder is not None and _folder not in sys.path:
        sys.path.insert(0, _folder)


def import_function(name: str, field: str) -> Callable[..., Any]:
    """Import ``module:function``, which the config names in `field`. Raises ConfigError where there is none."""
    place, _, attribute = name.rpartition(":")
    try:
        found = getattr(import_user_module(place), attribute)
    except Exception as error:  # user-defined modules may raise anything
        raise ConfigError(
            f"{field}: {name!r} could not be imported ({format_error(error)}); expected module:function"
        ) from error
    if not callable(found):
        raise ConfigError(f"{field}: {name!r} is a {type(found).__name__}, expected a function")
    function: Callable[..., Any] = found
    return function
