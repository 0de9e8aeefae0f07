"""Importance criteria: model and data -> score table."""
