"""Where a network of a run comes from."""

from blendsearch.runs.config.method_registry import list_method_origins
from blendsearch.runs.records import Evaluation

DENSE = "dense"
"""The origin of the evaluation that is the dense network itself."""


EVOLVED = "evolved"
"""The origin of a candidate that the optimiser made; others carry the names of the baselines they are."""


IN_BEST = " in the best allocation"
"""Ends the name of a criterion, or equal blend, that was judged in the allocation of the best baseline."""


def list_baseline_kinds(row: Evaluation) -> list[str]:
    """What kinds of baseline a row is, each with its budget where there are several; none for an evolved one.

    ``single criterion`` and ``equal blend``, in the uniform or their own global allocation; the same ``in the best
    allocation`` that these found; each with the words that say which layers it decomposes; what another method brings
    along, by its own name.
    """
    if row.origin in (EVOLVED, DENSE):
        return []
    kinds = []
    for name in row.origin.split(" = "):
        rule, at, place = name.partition(" at ")
        kind = "equal blend" if rule.startswith("equal blend") else "single criterion"
        if rule in list_method_origins():
            kind = rule
        if rule.endswith(IN_BEST):
            kind += IN_BEST
        if rule.endswith(" depthwise"):
            kind += rule[rule.rindex(", ") :]
        kinds.append(f"{kind}{at}{place}")
    return list(dict.fromkeys(kinds))
