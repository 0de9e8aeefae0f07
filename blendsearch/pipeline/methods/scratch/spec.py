"""The spec of method ``scratch``."""

from dataclasses import replace
from typing import Any

from blendsearch.pipeline.methods.one_network_spec import ONE_NETWORK_DEFAULTS
from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config


def check(config: Config) -> None:
    """Require a schedule that can be followed without stages and user-defined training."""
    if config.finals.stages > 1 or config.training.train_fn is not None:
        raise ValueError(
            f"method {config.method} trains by finals.tuning: leave finals.stages and training.train_fn out"
        )


DEFAULTS: dict[str, Any] = ONE_NETWORK_DEFAULTS | {
    "allocation": "uniform",
    "finals": {"picks": 0},
    "training": {"elastic": {"epochs": 0}},
}

SPEC = MethodSpec(
    name="scratch",
    summary="Train the uniformly pruned network from random weights, as long as a final.",
    implementation="blendsearch.pipeline.methods.scratch.method:Scratch",
    traits=Traits(
        one_network=True,
        fixed_networks=True,
        trains_itself=True,
        spans=False,
        transform="never",
        population=False,
        control="optional",
    ),
    defaults=DEFAULTS,
    check=check,
    origins=("scratch",),
)

LONG_SPEC = replace(
    SPEC,
    name="scratch-long",
    summary="Train the uniformly pruned network from random weights, as long as a ladder and its finals together.",
    implementation="blendsearch.pipeline.methods.scratch.method:LongScratch",
    origins=("scratch-long",),
)
