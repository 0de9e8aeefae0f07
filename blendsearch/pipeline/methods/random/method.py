"""Random search over the same space, baselines and budget as method ``blended``."""

from blendsearch.pipeline.methods.blended.method import Blended


class Random(Blended):
    """Method ``blended``, whose spec sets `search.optimizer` to ``random``."""
