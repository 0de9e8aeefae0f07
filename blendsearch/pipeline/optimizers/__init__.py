"""Optimizers: they propose candidates and receive the results."""
