"""blendsearch."""
