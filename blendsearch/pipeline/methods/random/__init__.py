"""Method ``random``: draw candidates at random."""
