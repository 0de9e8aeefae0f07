"""The Python API: search with a network and data that are Python objects, and read the results."""
