"""Method ``tailored``: one training run in which the network loses channels until it meets its budget."""
