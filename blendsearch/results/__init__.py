"""Reads a run, never writes one: the front, picks, export."""
