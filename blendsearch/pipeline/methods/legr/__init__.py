"""Method ``legr``: a learned global ranking of filters."""
