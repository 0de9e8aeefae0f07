"""The building blocks of config sections: kinds of numbers, and sections that several places use."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from blendsearch.runs.config.shares import parse_share

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Ratio = Annotated[float, BeforeValidator(parse_share), Field(gt=0, le=1)]
"""A share; a text such as ``50%`` is one too."""

PathText = Annotated[str, AfterValidator(lambda text: os.path.expandvars(os.path.expanduser(text)))]
"""A path, relative to the working directory; ``~`` and ``$VARIABLES`` are expanded."""


FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""A user-defined function, ``module:function``."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _reject_booleans(cls, values: Any) -> Any:
        """Refuse true and false for numbers: Python counts true as 1, which would be a budget of 100 %."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            several = value if isinstance(value, list | tuple) else [value]
            if field is None or bool in (field.annotation, *getattr(field.annotation, "__args__", ())):
                continue
            if any(isinstance(item, bool) for item in several):
                raise ValueError(f"{name} is {value}: expected no true or false there")
        return values


class ScheduleConfig(Section):
    """The settings of a training; see `training.schedule.Schedule`."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Positive = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    images: Positive | None = None
    decay: Literal["cosine", "constant"] = "cosine"
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TuningConfig(ScheduleConfig):
    """A fine-tune of a pruned network. `distillation`: weight of the divergence from the dense network's outputs."""

    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0


class RateProbeConfig(Section):
    """The search for the learning rate of the finals: each of `rates` trains the best baseline's cut for `epochs`.

    The rate with the least validation loss is taken.
    """

    rates: tuple[Annotated[float, Field(gt=0)], ...] = (0.01, 0.03, 0.1)
    epochs: Annotated[float, Field(gt=0)] = 1.0


class StagingConfig(Section):
    """How `finals.stages` share the epochs, and how the channels that go next decay; see `training.staged.Staging`."""

    last: Annotated[float, Field(gt=0, lt=1)] = 0.5
    press: Ratio = 1 / 3
    power: Annotated[float, Field(gt=0, le=100)] = 2.0


class FinalTuningConfig(ScheduleConfig):
    """The schedule of the finals. `rate`: auto is found by `finals.probe`."""

    epochs: Annotated[float, Field(gt=0)] = 40.0
    rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"  # type: ignore[assignment]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05


class LadderConfig(Section):
    """Trainings during the search, on the schedule of the finals; see `runs.config.ladder_plan`.

    `rungs`: shares of that schedule at which networks are compared; the finals are the last rung. Without rungs, finals
    are chosen by the search's own evaluations. About the share `keep` of a rung reaches the next one, and `finalists`
    reach the last. `rules`: known rules, at most half of the networks, that enter the first rung beside the search's
    own. `cost`: the largest number of full trainings of one network that all rungs and finals may cost together.
    """

    rungs: tuple[Annotated[float, Field(ge=1e-4, lt=1)], ...] = (0.0625, 0.25)
    keep: Ratio = 1 / 3
    finalists: Positive = 3
    rules: Annotated[int, Field(ge=0)] = 8
    cost: Annotated[float, Field(gt=0, le=10_000)] = 4.0

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError("expected rising shares of the schedule of the finals")
        return rungs


class ElasticConfig(TuningConfig):
    """The elastic tune of the dense network before the search; 0 `epochs` are none.

    Every step trains the whole network and `sub_cuts` random cuts of it, the first of them at the smallest budget.
    `distillation`: weight of the divergence from the untouched dense network in the loss of the whole network.
    """

    epochs: Annotated[float, Field(ge=0)] = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    sub_cuts: Annotated[int, Field(ge=1, le=16)] = 2


class TrainingConfig(Section):
    """User-defined training, what all fine-tunes share, and the `elastic` tune of the dense network.

    `train_fn`, `optimizer`, `scheduler`, `on_step`, `on_epoch`: functions as ``module:function``, see
    `training.hooks.TrainingHooks`. `views`: augmented views per image for which the dense network's outputs are stored
    for distillation; 0 runs it beside the network. `checkpoint_seconds`: time between two checkpoints of a training.
    `graphs`: whether steps on a GPU are recorded as a CUDA graph where they can be (training/graphed_step.py).
    """

    train_fn: FunctionName | None = None
    optimizer: FunctionName | None = None
    scheduler: FunctionName | None = None
    on_step: FunctionName | None = None
    on_epoch: FunctionName | None = None
    views: Annotated[int, Field(ge=0)] = 8
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    graphs: bool = True
    elastic: ElasticConfig = ElasticConfig()

    def get_function_names(self) -> dict[str, str]:
        """Return the names of the functions that are set, by their role."""
        roles = ("train_fn", "optimizer", "scheduler", "on_step", "on_epoch")
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


class TaskConfig(Section):
    """The task of the network: a built-in `kind`, and user-defined functions that replace parts of it.

    `loss`: from outputs and targets to the mean loss of a batch, or one loss per image. `evaluate`: from a network to
    numbers by name, as ``evaluate=`` in Python; `evaluate_test`: the same on test data. With `metric`, `evaluate`
    returns one number called `name`, or a mapping with it, of which the higher or the lower is better.
    """

    kind: Literal["classification", "multi-label", "segmentation"] = "classification"
    loss: FunctionName | None = None
    evaluate: FunctionName | None = None
    evaluate_test: FunctionName | None = None
    metric: Literal["higher", "lower"] | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w@.: -]{0,39}$")] = "metric"

    def get_function_names(self) -> dict[str, str]:
        """Return the names of the functions that are set, by their role."""
        roles = ("loss", "evaluate", "evaluate_test")
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


class AllocationConfig(Section):
    """Allocations that rank channels by one criterion: ``global``, and those that methods measure.

    `criterion`: its raw scores are compared with one threshold, and its lowest channels are removed while a group is
    measured; ``blend`` weights the whole pool equally. `ratios`: the shares of its channels that a group keeps when it
    is measured, evaluated at `fidelity` by the growth of `measure`.
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
    """The `share` of networks, the best by the search's own evaluations, that are evaluated again at the end.

    At a higher fidelity; or on the `unused` validation images, which `data.val_limit` hides from the search, so that
    networks chosen by chance are detected. The result of the search is the best of these by this evaluation.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    fidelity: Literal["recalibrated", "tuned"] = "tuned"
    images: Literal["same", "unused"] = "same"

    def get_split(self) -> Literal["val", "unused"]:
        """Return the split that the networks are evaluated again on."""
        return "unused" if self.images == "unused" else "val"
