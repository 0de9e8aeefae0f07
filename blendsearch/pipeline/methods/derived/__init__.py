"""Method ``derived``: pruning rates that follow from how far the loss may grow."""
