"""Method ``scratch``: train the uniformly pruned network from random weights."""
