"""Events of a search as records of Python's logging, by the logger ``blendsearch.events``."""

import logging

from blendsearch.events import Evaluated, Event, FineTuned, Interrupted, StepDone, Warned

logger = logging.getLogger("blendsearch.events")
logging.getLogger("blendsearch").addHandler(logging.NullHandler())

FREQUENT = (Evaluated, FineTuned, StepDone)
"""Events that are logged at level DEBUG."""


def log_event(event: Event) -> None:
    """Log `event`: warnings as such, frequent ones at DEBUG, others at INFO; the record's ``event`` is its JSON."""
    level = logging.INFO
    if isinstance(event, Warned | Interrupted):
        level = logging.WARNING
    elif isinstance(event, FREQUENT):
        level = logging.DEBUG
    if logger.isEnabledFor(level):
        facts = event.to_dict()
        kind = facts.pop("event")
        words = ", ".join(f"{name} {value}" for name, value in facts.items() if not isinstance(value, list | dict))
        logger.log(level, "%s: %s", kind, words, extra={"event": event.to_dict()})
