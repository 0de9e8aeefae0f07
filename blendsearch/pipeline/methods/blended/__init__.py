"""Method ``blended``: evolve a blend of criteria and the widths of all layers."""
