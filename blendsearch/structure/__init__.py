"""What can be cut, what it costs, and cutting it."""
