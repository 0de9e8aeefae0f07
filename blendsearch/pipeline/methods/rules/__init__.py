"""Method ``rules``: the known rules at several compressions."""
