"""Names of data sets that come from outside; known without importing torch."""

BUILT_IN_DATA = ("clutter", "digits")
"""The data sets that are made from installed packages, without any folder."""

HUGGING_FACE = "huggingface"
"""The data set whose name is `data.name`."""


def is_source(dataset: str) -> bool:
    """Return True for names that `data.sources.load_source` reads."""
    return ":" in dataset or dataset == HUGGING_FACE
