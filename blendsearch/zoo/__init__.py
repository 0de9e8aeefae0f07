"""Bundled networks, and the factory that builds any network by name."""
