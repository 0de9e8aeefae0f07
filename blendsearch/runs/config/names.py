"""Names in a config, checked before what they name is imported: torch takes seconds.

The bundled names are read from the source: each is the first argument of a decorator. The modules that import torch
check names again, also those of user-defined code.
"""

import difflib
import importlib.metadata
import re
from functools import cache
from pathlib import Path

from blendsearch.criteria.registry import ENTRY_POINTS, POOL_MODULES
from blendsearch.data.source_names import HUGGING_FACE, is_source
from blendsearch.errors import BlendsearchError, ConfigError, ModelError
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config

MODELS = ("cifar_resnet", "cifar_vgg16_bn", "clutter_net", "digits_net")
"""Bundled networks, the keys of `blendsearch.zoo.factory.ZOO`."""


def check_names(config: Config) -> None:
    """Raise ConfigError or ModelError for a name that is neither bundled nor that of user-defined code."""
    for error in (find_wrong_model(config), find_wrong_data(config), find_wrong_criterion(config)):
        if error is not None:
            raise error


def find_wrong_model(config: Config) -> BlendsearchError | None:
    """Find an unknown name of a bundled network."""
    factory = config.model.factory
    if ":" in factory or factory in MODELS:
        return None
    near = difflib.get_close_matches(factory, MODELS, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ModelError(
        f"no model is called {factory!r}: {hint}expected one of {', '.join(MODELS)}, torchvision:NAME, timm:NAME or "
        "module:function"
    )


def find_wrong_data(config: Config) -> BlendsearchError | None:
    """Find an unknown name of a data set or an augmentation."""
    dataset = config.data.dataset
    if config.criteria.modules or dataset.startswith(f"{PYTHON_PREFIX}:"):
        return None  # user-defined modules may register any
    wanted = []
    if not is_source(dataset):
        wanted = [("data.dataset", dataset, (*list_bundled_names("data", "register_dataset"), HUGGING_FACE))]
    known = list_bundled_names("data", "register_augmentation")
    wanted += [("augmentation", name, known) for name in (*config.data.augment, *config.criteria.augment)]
    for title, name, names in wanted:
        if names and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return ConfigError(f"{title} {name!r} is unknown; expected one of {', '.join(sorted(names))}{hint}")
    return None


def find_wrong_criterion(config: Config) -> BlendsearchError | None:
    """Find an unknown or repeated name in `criteria.pool`."""
    pool = config.criteria.pool
    for name in pool:
        if pool.count(name) > 1:
            return ConfigError(f"criterion {name!r} is named twice: name each criterion once")
    known = list_criteria()
    unknown = [name for name in pool if name not in known]
    if not unknown or not known or config.criteria.modules:
        return None
    if importlib.metadata.entry_points(group=ENTRY_POINTS):
        return None  # installed packages may register any
    near = difflib.get_close_matches(unknown[0], known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"no criterion is called {unknown[0]!r}: {hint}known are {', '.join(known)}")


def list_criteria() -> tuple[str, ...]:
    """List the bundled criteria in the order of the pool."""
    return tuple(name for module in POOL_MODULES for name in _read_names(f"criteria/{module}.py", "criterion"))


def list_bundled_names(folder: str, decorator: str) -> tuple[str, ...]:
    """List the names that modules in `folder` of the package register by `decorator`; none without their source."""
    files = sorted(_find_package().joinpath(folder).glob("*.py"))
    return tuple(name for file in files for name in _read_names(f"{folder}/{file.name}", decorator))


@cache
def _read_names(file: str, decorator: str) -> tuple[str, ...]:
    try:
        text = _find_package().joinpath(file).read_text(encoding="utf-8")
    except OSError:
        return ()
    return tuple(re.findall(rf'^@{decorator}\(\s*"([^"]+)"', text, re.MULTILINE))


def _find_package() -> Path:
    return Path(__file__).parents[2]
