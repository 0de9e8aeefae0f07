"""Contract suites that third-party criteria, methods, optimizers and engines can run.

Each function raises AssertionError with the rule that is broken. The functions need no test framework.
"""

from blendsearch.testing.criteria import check_criterion, check_criterion_facts
from blendsearch.testing.engines import check_engine
from blendsearch.testing.methods import check_method
from blendsearch.testing.optimizers import (
    OptimizerCase,
    check_candidates,
    check_learning,
    check_optimizer,
    check_restoring,
    check_seeding,
    check_steady_candidates,
    check_steady_learning,
)

__all__ = [
    "OptimizerCase",
    "check_candidates",
    "check_criterion",
    "check_criterion_facts",
    "check_engine",
    "check_learning",
    "check_method",
    "check_optimizer",
    "check_restoring",
    "check_seeding",
    "check_steady_candidates",
    "check_steady_learning",
]
