"""Errors that a user can fix.

Every message states on one line the problem, the expected input and the fix. The command line prints it without a
traceback and exits with code 2.
"""


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
