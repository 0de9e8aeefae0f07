"""Errors that a user can fix.

Every message states on one line the problem, the expected input and the fix. The command line prints it without a
traceback and exits with code 2.
"""

import re

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MAX_LENGTH = 500


def format_error(error: BaseException) -> str:
    """Return the type and the reason of an exception of other code, in one line."""
    reason, name = format_reason(error), type(error).__name__
    return name if reason == name else f"{name}: {reason}"


def format_reason(error: BaseException) -> str:
    """Return the first line of an exception's text without terminal escapes, at most 500 characters; else its type."""
    lines = ESCAPES.sub("", str(error)).strip().splitlines()
    return lines[0][:MAX_LENGTH] if lines else type(error).__name__


class BlendsearchError(Exception):
    """Base class of all errors that a user can fix."""


class ConfigError(BlendsearchError):
    """Invalid config, name in a config, or command-line value."""


class DataError(BlendsearchError):
    """Invalid images or labels."""


class ModelError(BlendsearchError):
    """Invalid model factory, or weights that do not fit the model."""


class TraceError(ModelError):
    """Model whose channels cannot be traced from input to output."""


class BudgetError(BlendsearchError):
    """Budget that no cut can meet; the message states the reachable range."""


class EvaluateError(BlendsearchError):
    """Invalid result of a user-defined `evaluate` or `loss`, or a search without any successful evaluation."""


class TrainingError(BlendsearchError):
    """Training that diverged, or invalid result of a user-defined training function."""


class RunError(BlendsearchError):
    """Invalid name, state or version of a run directory."""


class EngineError(BlendsearchError):
    """Failure to start or to keep the workers that run evaluations."""
