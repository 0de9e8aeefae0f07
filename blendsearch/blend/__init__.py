"""Blending of criteria: clustering, genome, decoder, allocation."""
