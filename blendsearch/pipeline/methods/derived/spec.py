"""The spec of method and allocation ``derived``, and its section of the config."""

from typing import Annotated

from pydantic import Field

from blendsearch.pipeline.methods.one_network_spec import ONE_NETWORK_DEFAULTS
from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.sections import Positive, ScheduleConfig, Section

PruningRate = Annotated[float, Field(ge=0, lt=1)]


class RetrainingConfig(ScheduleConfig):
    """The retraining after every step. It must recover the accuracy, which decides whether the step stands."""

    epochs: Annotated[float, Field(gt=0)] = 5.0
    rate: Annotated[float, Field(gt=0)] = 0.03
    batch_size: Positive = 64


class DerivedConfig(Section):
    """Options of the derivation (method.py).

    `margin`: how far the loss may grow, relative to the dense network's; `tolerance`: how far validation accuracy may
    fall. `ladder`: rates that a group may lose in one step. `trust`: the first trust region, relative to the error that
    the largest rates would cause everywhere; `grow` and `shrink` are its factors. `steps`: the search limit. `tuning`
    retrains after every step, `final` once more at the end.
    """

    margin: Annotated[float, Field(gt=0)] = 0.1
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    batches: Positive = 100
    batch_size: Positive = 64
    ladder: tuple[PruningRate, ...] = (0.5, 0.4, 0.3, 0.2, 0.1)
    trust: Annotated[float, Field(gt=0)] = 0.25
    grow: Annotated[float, Field(gt=1)] = 2.0
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    steps: Positive = 20
    tuning: RetrainingConfig = RetrainingConfig()
    final: RetrainingConfig | None = None


SPEC = MethodSpec(
    name="derived",
    summary="Derive pruning rates from how far the loss may grow, step by step, with retraining.",
    implementation="blendsearch.pipeline.methods.derived.method:Derived",
    traits=Traits(
        one_network=True,
        fixed_networks=True,
        trains_itself=True,
        transform="never",
        fixed_widths=False,
        population=False,
        seeds_others=True,
        control="optional",
    ),
    defaults=ONE_NETWORK_DEFAULTS
    | {"allocation": "derived", "finals": {"picks": 0}, "training": {"elastic": {"epochs": 0}}},
    options=DerivedConfig,
    origins=("derived",),
)
