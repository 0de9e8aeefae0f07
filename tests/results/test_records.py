"""Records: their JSON is read back as it was written."""

import pytest

from blendsearch.results.records import (
    BlendWeight,
    ComparisonTable,
    FinalRecord,
    FoundNetwork,
    GroupRecord,
    MethodSummary,
    NetworkDetails,
    NetworkRecord,
    PairedDifference,
    Record,
    RunListing,
    RunStatus,
    RunSummary,
    Spread,
)

EVALUATED = {
    "id": 7,
    "cut": "ab12",
    "origin": "l1 global",
    "macs_ratio": 0.5,
    "params_ratio": 0.6,
    "val_loss": 0.25,
    "val_accuracy": 0.9,
    "test_accuracy": None,
    "fidelity": "tuned",
}
LATENCY = {"latency_ratio": 0.7, "latency_predicted": 0.65, "latency_measured": None, "latency_ms": None}
NETWORK = EVALUATED | {"memory_ratio": 0.8} | LATENCY | {"further": {"worst": 3.0}}
FINAL = EVALUATED | {"seeds": 2, "val_spread": 0.01, "test_spread": 0.02, "memory_ratio": 0.8}
DETAILS = {
    "run": "one",
    **EVALUATED,
    "macs": 100,
    "params": 50,
    "dense": {"macs": 200, "params": 90},
    "generation": 3,
    "seed": 4,
    "seconds": 1.5,
    "kinds": ["single criterion"],
    "on_front": True,
    "finals": [],
    "groups": [
        {
            "group": "stem",
            "channels": 8,
            "kept": 4,
            "kept_ratio": 0.5,
            "blend": [{"criterion": "l1", "weight": 1.0, "part": 1.0}],
        },
        {"group": "top", "channels": 8, "kept": 8, "kept_ratio": 1.0, "blend": None, "log_alpha": 0.1, "beta": -1.0},
    ],
    "decomposed": [],
    "genome": {"weight": [[0.5]]},
    "provenance": {"git": None, "command": ["blendsearch", "search"]},
}
SPREAD = {"mean": 0.5, "deviation": None}
FOUND = {
    "seed": 0,
    "cut": "ab12",
    "origin": "evolved",
    "evaluations": 30,
    "macs_ratio": 0.5,
    "params_ratio": 0.6,
    "val_loss": 0.2,
    "val_accuracy": 0.9,
    "test_accuracy": 0.8,
}
METHOD = {
    "name": "blended",
    "seeds": [0],
    "found": [FOUND],
    "val_loss": SPREAD,
    "val_accuracy": SPREAD,
    "test_accuracy": SPREAD,
}
COMPARED = {
    "run": "one",
    "budget": "50% of macs",
    "methods": [METHOD, METHOD | {"difference": {"mean": 0.1, "half_width": None, "pairs": 1}}],
    "verdict": "",
}
STATUS = {
    "run": "one",
    "state": "running",
    "evaluations": 3,
    "asked": 9,
    "failed": 0,
    "generations": 1,
    "fine_tuned": 0,
    "tested": 0,
    "schedule": "steady",
    "retried": 0,
    "workers": 2,
    "per_minute": None,
    "seconds_each": None,
    "utilisation": None,
    "seconds_left": None,
    "quiet": 1.5,
    "best": {"id": 2, "origin": "evolved", "val_loss": 0.2, "val_accuracy": None, "macs_ratio": 0.5},
}
AGREEMENT = {"cheaper": "raw", "dearer": "tuned", "networks": 2, "tau": None}
SUMMARY = {
    "dense": [EVALUATED],
    "baselines": [NETWORK],
    "front": [],
    "fidelities": [AGREEMENT],
    "finals": [FINAL],
}
LISTED = {
    "run": "one",
    "model": "digits",
    "data": "digits",
    "budget": "50% macs",
    "evaluations": 4,
    "asked": 9,
    "best_val_accuracy": None,
    "state": "stopped",
}


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        (NetworkRecord, EVALUATED),
        (NetworkRecord, NETWORK),
        (FinalRecord, FINAL),
        (RunSummary, SUMMARY),
        (NetworkDetails, DETAILS),
        (ComparisonTable, COMPARED),
        (RunStatus, STATUS),
        (RunListing, LISTED),
    ],
)
def test_json_is_read_back_with_the_same_keys_in_the_same_order(record: type[Record], facts: dict[str, object]) -> None:
    found = record.from_dict(facts)
    assert found.to_dict() == facts and list(found.to_dict()) == list(facts)
    assert record.from_dict(found.to_dict() | {"added by a newer version": 1}) == found


def test_nested_records_have_attributes() -> None:
    details = NetworkDetails.from_dict(DETAILS)
    assert isinstance(details.groups[0], GroupRecord)
    assert details.groups[0].blend == (BlendWeight(criterion="l1", weight=1.0, part=1.0),)
    assert details.groups[1].blend is None and details.groups[1].beta == -1.0
    method = ComparisonTable.from_dict(COMPARED).methods[1]
    assert isinstance(method, MethodSummary) and isinstance(method.found[0], FoundNetwork)
    assert method.val_loss == Spread(mean=0.5, deviation=None)
    assert method.difference == PairedDifference(mean=0.1, half_width=None, pairs=1)
    assert RunStatus.from_dict(STATUS | {"best": None}).best is None
