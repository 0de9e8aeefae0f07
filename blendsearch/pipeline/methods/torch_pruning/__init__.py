"""Method ``torch-pruning``: the cuts of Torch-Pruning's own pruners."""
