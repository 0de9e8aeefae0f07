"""Datasets, splits, loaders and transforms."""
