"""What the sections of a config are made of: kinds of numbers, and the section that several of them hold."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]
PathText = Annotated[str, AfterValidator(lambda text: os.path.expandvars(os.path.expanduser(text)))]
"""A path, relative to the working directory; ``~`` and ``$VARIABLES`` are expanded."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truths_are_no_numbers(cls, values: Any) -> Any:
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
