"""Optional packages, by the extra of ``pyproject.toml`` that installs them."""

from importlib.util import find_spec

from blendsearch.errors import BlendsearchError, ConfigError

EXTRAS = {
    "cluster": ("ray", "aiohttp"),
    "huggingface": ("datasets",),
    "mlflow": ("mlflow",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "optuna": ("optuna",),
    "peers": ("torch_pruning",),
    "plots": ("matplotlib",),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn"),
    "tensorboard": ("tensorboard",),
    "timm": ("timm",),
    "train": ("ray", "fsspec", "pandas", "pyarrow"),
    "wandb": ("wandb",),
}
"""Modules that each extra needs."""


def list_missing_packages(extra: str) -> list[str]:
    """List the modules of `extra` that are not installed, without importing them."""
    return [name for name in EXTRAS[extra] if not _is_installed(name)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # an imported module without a specification
        return True


def require_extra(extra: str, purpose: str, error: type[BlendsearchError] = ConfigError) -> None:
    """Raise `error` unless the packages of `extra` are installed; `purpose` is what needs them."""
    if missing := list_missing_packages(extra):
        raise error(format_missing(purpose, extra, missing))


def format_missing(purpose: str, extra: str, packages: list[str] | None = None) -> str:
    """Format which packages `purpose` needs, and the command that installs them."""
    names = ", ".join(name.replace("_", "-") for name in packages or EXTRAS[extra])
    return f"{purpose} needs {names}: pip install 'blendsearch[{extra}]'"
