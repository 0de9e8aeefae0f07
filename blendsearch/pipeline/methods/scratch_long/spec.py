"""The spec of method ``scratch-long``."""

from blendsearch.pipeline.methods.scratch.spec import LONG_SPEC

SPEC = LONG_SPEC
