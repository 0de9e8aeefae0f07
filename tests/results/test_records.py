"""Records: their JSON has the documented keys, in order."""

from dataclasses import replace
from typing import Any

import pytest

from blendsearch.results.metrics import RunMetric
from blendsearch.results.record import Record
from blendsearch.results.records import (
    BestNetwork,
    BlendWeight,
    ComparisonTable,
    FidelityAgreement,
    FinalRecord,
    FoundNetwork,
    GroupRecord,
    MethodSummary,
    NetworkDetails,
    NetworkRecord,
    PairedDifference,
    RunListing,
    RunStatus,
    RunSummary,
    Spread,
)

EVALUATED: dict[str, Any] = {
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
LATENCY = {
    "latency_ratio": 0.7,
    "latency_predicted": 0.65,
    "latency_measured": None,
    "latency_ms": None,
}
NETWORK: dict[str, Any] = EVALUATED | {"memory_ratio": 0.8} | LATENCY | {"further": {"worst": 3.0}}
FINAL: dict[str, Any] = EVALUATED | {"seeds": 2, "val_spread": 0.01, "test_spread": 0.02, "memory_ratio": 0.8}
DETAILS: dict[str, Any] = {
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
SPREAD: dict[str, Any] = {"mean": 0.5, "deviation": None}
FOUND: dict[str, Any] = {
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
METHOD: dict[str, Any] = {
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
STATUS: dict[str, Any] = {
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
AGREEMENT: dict[str, Any] = {"cheaper": "raw", "dearer": "tuned", "networks": 2, "tau": None}
SUMMARY = {
    "dense": [EVALUATED],
    "baselines": [NETWORK],
    "front": [],
    "fidelities": [AGREEMENT],
    "finals": [FINAL],
}
LISTED: dict[str, Any] = {
    "run": "one",
    "model": "digits",
    "data": "digits",
    "budget": "50% macs",
    "evaluations": 4,
    "asked": 9,
    "best_val_accuracy": None,
    "metric": {"name": "accuracy", "higher": True, "share": True},
    "best_metric": None,
    "state": "stopped",
}


EVALUATED_NETWORK = NetworkRecord(**EVALUATED)
FULL_NETWORK = NetworkRecord(**NETWORK)
FINE_TUNED = FinalRecord(**FINAL)
FIRST_GROUP = GroupRecord(
    group="stem",
    channels=8,
    kept=4,
    kept_ratio=0.5,
    blend=(BlendWeight(criterion="l1", weight=1.0, part=1.0),),
)
SECOND_GROUP = GroupRecord(group="top", channels=8, kept=8, kept_ratio=1.0, blend=None, log_alpha=0.1, beta=-1.0)
DETAILED = NetworkDetails(
    **DETAILS | {"kinds": ("single criterion",), "finals": (), "groups": (FIRST_GROUP, SECOND_GROUP), "decomposed": ()},
)
HALF = Spread(mean=0.5, deviation=None)
OWN_METHOD = MethodSummary(
    name="blended",
    seeds=(0,),
    found=(FoundNetwork(**FOUND),),
    val_loss=HALF,
    val_accuracy=HALF,
    test_accuracy=HALF,
)
COMPARISON = ComparisonTable(
    run="one",
    budget="50% of macs",
    methods=(OWN_METHOD, replace(OWN_METHOD, difference=PairedDifference(mean=0.1, half_width=None, pairs=1))),
    verdict="",
)
SUMMARIZED = RunSummary(
    dense=(EVALUATED_NETWORK,),
    baselines=(FULL_NETWORK,),
    front=(),
    fidelities=(FidelityAgreement(**AGREEMENT),),
    finals=(FINE_TUNED,),
)
RUNNING = RunStatus(**STATUS | {"best": BestNetwork(**STATUS["best"])})


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        (EVALUATED_NETWORK, EVALUATED),
        (FULL_NETWORK, NETWORK),
        (FINE_TUNED, FINAL),
        (SUMMARIZED, SUMMARY),
        (DETAILED, DETAILS),
        (COMPARISON, COMPARED),
        (RUNNING, STATUS),
        (replace(RUNNING, best=None), STATUS | {"best": None}),
        (RunListing(**LISTED | {"metric": RunMetric()}), LISTED | {"tags": [], "archived": False, "changed": None}),
    ],
)
def test_json_has_the_fields_as_keys_in_their_order(record: Record, facts: dict[str, object]) -> None:
    assert record.to_dict() == facts and list(record.to_dict()) == list(facts)


def test_nested_records_are_written_with_their_keys_in_order() -> None:
    details, comparison = DETAILED.to_dict(), COMPARISON.to_dict()
    assert [list(group) for group in details["groups"]] == [list(group) for group in DETAILS["groups"]]
    assert list(comparison["methods"][1]) == [*METHOD, "difference"]
    assert list(comparison["methods"][0]["found"][0]) == list(FOUND)
