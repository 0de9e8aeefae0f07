"""Logging of the command line: ``-v`` writes the log of blendsearch to standard error."""

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(verbose: int) -> None:
    """Write log records to standard error: of level INFO for one ``-v``, DEBUG for more, none without it."""
    if not verbose:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    logger = logging.getLogger("blendsearch")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
