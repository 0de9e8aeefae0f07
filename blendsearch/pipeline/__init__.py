"""Evolution, its seeds, and the loop that asks, evaluates and tells."""
