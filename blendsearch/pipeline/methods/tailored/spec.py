"""The spec of method and allocation ``tailored``, and its section of the config."""

from typing import Annotated

from pydantic import Field

from blendsearch.pipeline.methods.one_network_spec import ONE_NETWORK_DEFAULTS
from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.sections import Ratio, ScheduleConfig, Section


class TailoredConfig(Section):
    """Options of the training run (method.py).

    `tuning`: the training run, of whole epochs; the network meets its budget after the part `arrival` of its steps.
    `by_cost`: the power of a channel's relative cost by which the pressure on it is weighted.
    """

    tuning: ScheduleConfig = ScheduleConfig(epochs=20.0)
    arrival: Ratio = 0.5
    by_cost: Annotated[float, Field(ge=0, le=2)] = 0.0


SPEC = MethodSpec(
    name="tailored",
    summary="Train the network once, under a pressure on channels that makes it meet the budget.",
    implementation="blendsearch.pipeline.methods.tailored.method:Tailored",
    traits=Traits(
        one_network=True,
        fixed_networks=True,
        trains_itself=True,
        spans=False,
        transform="never",
        costs=frozenset({"macs", "params"}),  # the pressure acts on costs that every channel adds to
        fixed_widths=False,
        population=False,
        seeds_others=True,
        control="optional",
    ),
    defaults=ONE_NETWORK_DEFAULTS
    | {"allocation": "tailored", "finals": {"picks": 0}, "training": {"elastic": {"epochs": 0}}},
    options=TailoredConfig,
    origins=("tailored",),
)
