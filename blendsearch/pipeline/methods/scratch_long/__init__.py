"""Method ``scratch-long``: method ``scratch`` at the cost of a whole search with a ladder."""
