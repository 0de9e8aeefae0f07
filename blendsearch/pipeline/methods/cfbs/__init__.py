"""Method ``cfbs``: the search of the paper that introduced blending."""
