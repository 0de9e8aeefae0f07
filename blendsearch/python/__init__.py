"""The same as functions: search with a network and data that live in Python, and hold what was found in hand."""
