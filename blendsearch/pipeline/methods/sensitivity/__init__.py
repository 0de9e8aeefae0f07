"""Method ``sensitivity``: widths read from measured sensitivity curves."""
