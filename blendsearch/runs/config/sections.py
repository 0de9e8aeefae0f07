"""What the sections of a config are made of: kinds of numbers, and the section that several of them hold."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]
PathText = Annotated[str, AfterValidator(lambda text: os.path.expandvars(os.path.expanduser(text)))]
"""A path, relative to the working directory; ``~`` and ``$VARIABLES`` are expanded."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_booleans(cls, values: Any) -> Any:
        """Python counts true as 1, and a budget of 100 % is not what was meant."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            several = value if isinstance(value, list | tuple) else [value]
            if field is not None and field.annotation is not bool and any(isinstance(item, bool) for item in several):
                raise ValueError(f"{name} is {value}: expected no true or false there")
        return values


class ScheduleConfig(Section):
    """SGD with momentum; see fitness.training.Schedule."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Positive = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    images: Positive | None = None
    decay: Literal["cosine", "constant"] = "cosine"
    nesterov: bool = True


class AllocationConfig(Section):
    """Allocations ``global`` and ``sensitivity``; see blend.fixed and search.sensitivity.

    `criterion`: whose raw scores one threshold is laid over, and whose least channels are left out while a group's
    sensitivity is measured; ``blend`` is all of the pool alike. `ratios`: the parts of its channels that a group keeps
    when it is measured, judged at `fidelity` by the growth of `measure`.
    """

    criterion: str = "blend"
    ratios: tuple[Ratio, ...] = (0.8, 0.6, 0.4, 0.2)
    fidelity: Literal["raw", "recalibrated", "tuned"] = "recalibrated"
    measure: Literal["error", "loss"] = "error"

    @field_validator("ratios")
    @classmethod
    def _sort_ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or max(ratios) >= 1:
            raise ValueError("expected at least one part of a group's channels, each below 1")
        return tuple(sorted(set(ratios), reverse=True))


class PromoteConfig(Section):
    """The `share` of networks, the best by the search's own judgement, that are judged again in the end.

    At a dearer fidelity; or on the `unused` validation images, which `data.val_limit` hides from the search, so that
    what was chosen for its luck with the others is found out. What was found is the best of these by this judgement.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    fidelity: Literal["recalibrated", "tuned"] = "tuned"
    images: Literal["same", "unused"] = "same"


Part = Annotated[float, Field(ge=0, lt=1)]


class DerivedConfig(Section):
    """Allocation and method ``derived``; see search.derived.

    `margin`: how far the loss may grow, as a part of the dense network's; `tolerance`: how far validation accuracy may
    fall. `ladder`: rates that a group may lose in one step. `trust`: the first trust region, as a part of the error
    that the largest rates everywhere would make; `grow` and `shrink` it by these. `steps`: the search limit. `tuning`
    retrains after every step, `final` once more at the end.
    """

    margin: Annotated[float, Field(gt=0)] = 0.1
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    batches: Positive = 100
    batch_size: Positive = 64
    ladder: tuple[Part, ...] = (0.5, 0.4, 0.3, 0.2, 0.1)
    trust: Annotated[float, Field(gt=0)] = 0.25
    grow: Annotated[float, Field(gt=1)] = 2.0
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    steps: Positive = 20
    tuning: ScheduleConfig = ScheduleConfig(epochs=1.0)
    final: ScheduleConfig | None = None


class TailoredConfig(Section):
    """Method ``tailored``; see search.tailored.

    `tuning`: the one training run, of whole epochs; the network is to arrive at its budget after the part `arrival` of
    its steps. `by_cost`: how much more a dear channel is pressed than a cheap one: its cost to this power.
    """

    tuning: ScheduleConfig = ScheduleConfig(epochs=20.0)
    arrival: Ratio = 0.5
    by_cost: Annotated[float, Field(ge=0, le=2)] = 0.0
