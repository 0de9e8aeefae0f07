"""Search methods. Each is a folder with `spec.py`, which describes it to configs, and the code that implements it.

Adding a method means adding a folder: `register_built_in` finds it. A package outside declares an entry point of the
group ``blendsearch.methods`` instead.
"""

import importlib
import pkgutil

from blendsearch.runs.config.method_registry import register_method


def register_built_in() -> None:
    """Register the `SPEC` of every folder of this package. Imports no implementation, and so no torch."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            register_method(importlib.import_module(f"{__name__}.{module.name}.spec").SPEC)
