"""What blendsearch raises when the input, not the program, is wrong.

Every message says three things on one line: what was wrong, what was expected, what to do. The command line prints it
without a traceback and exits with code 2.
"""


class BlendsearchError(Exception):
    """The root of every error that a person can mend."""


class ConfigError(BlendsearchError):
    """A configuration, a name in it, or a value on the command line."""


class DataError(BlendsearchError):
    """Images or labels."""


class ModelError(BlendsearchError):
    """A model factory, or weights that do not belong to it."""


class TraceError(ModelError):
    """A model whose channels cannot be followed from input to output."""


class BudgetError(BlendsearchError):
    """A budget that no cut can meet; the message states the range that can be met."""


class EvaluateError(BlendsearchError):
    """What a person's own `evaluate` or `loss` answered; or that no network at all could be judged."""


class RunError(BlendsearchError):
    """A run directory: its name, its state, or its version."""


class EngineError(BlendsearchError):
    """Where evaluations run could not be started, or did not come back."""
