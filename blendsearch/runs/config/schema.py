"""The config of a run: its sections and fields."""

import shlex
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from blendsearch.errors import ConfigError
from blendsearch.runs.config.choices import OneOf
from blendsearch.runs.config.method_registry import (
    list_allocation_names,
    list_method_names,
    list_methods,
    list_seed_names,
)
from blendsearch.runs.config.sections import (
    AllocationConfig,
    FinalTuningConfig,
    LadderConfig,
    PathText,
    Positive,
    PromoteConfig,
    RateProbeConfig,
    Ratio,
    ScheduleConfig,
    Section,
    StagingConfig,
    TaskConfig,
    TrainingConfig,
    TuningConfig,
)

PYTHON_PREFIX = "python"
"""The prefix of a factory or data set that is a Python object and has no name."""


FACTORY_WEIGHTS = "factory"
"""Value of `model.weights` for a factory that brings its own weights."""


class ModelConfig(Section):
    """The dense network: a factory, and weights for it or a schedule to train it by.

    `weights`: a file, or ``factory`` for those that the factory brings: pretrained ones of torchvision and timm, or
    whatever a user-defined function loads. With ``factory`` and `train`, training starts from them.
    """

    factory: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: PathText | None = None
    train: ScheduleConfig | None = None

    @property
    def brings_weights(self) -> bool:
        """Return True where the weights are those of the factory."""
        return self.weights == FACTORY_WEIGHTS

    @property
    def title(self) -> str:
        """Return the factory and its arguments for a reader, such as ``cifar_resnet (depth 56)``."""
        given = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return self.factory.rpartition(":")[2] + (f" ({given})" if 0 < len(given) <= 40 else "")


class DataConfig(Section):
    """Images and their three splits; see `data.splits.DataSpec`.

    The splits are drawn by the run's seed, or by `split_seed`. Set it where weights were trained on one side of the
    split, so that no search with another seed validates on images that its network was trained on.
    """

    dataset: str
    root: PathText | None = None
    train: PathText | None = None
    test: PathText | None = None
    val: PathText | None = None
    val_from: Literal["train", "test"] = "train"
    val_size: Annotated[float, Field(gt=0)] = 0.1
    val_limit: Positive | None = None
    train_limit: Positive | None = None
    test_limit: Positive | None = None
    image_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: tuple[str, ...] = ()
    download: bool = False
    split_seed: Annotated[int, Field(ge=0)] | None = None
    transforms: str = "none"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    name: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    keys: tuple[str, str] | None = None


class CriteriaConfig(Section):
    """The criteria that score the channels, the images they see, and their clustering.

    `pool` names them (all but the controls when empty); `modules` are user-defined, and imported for their criteria.
    """

    pool: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    images: Positive = 512
    temperature: Annotated[float, Field(ge=1)] = 4.0
    augment: tuple[str, ...] = ()
    clustering: Literal["kmeans", "agglomerative"] = "kmeans"
    clusters: Positive | Literal["silhouette"] = 3


Span = Ratio | tuple[Ratio, Ratio]
COSTS = ("macs", "params", "memory", "latency")


class LatencyConfig(Section):
    """The latency measurement: images per pass, precision, passes per median, cuts that the model is fitted on.

    `runtime`: torch runs on `fitness.device`, and on a CPU with `engine.threads` threads; onnxruntime on the CPU with
    as many; a `command` measures elsewhere, within `timeout` seconds (fitness/timers.py). A `command` selects that
    runtime, and 3 repeats, since it measures many passes itself. A search ends where cuts would be charged more than
    `max_margin` beyond the model's prediction, as a share of it.
    """

    batch_size: Positive = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    repeats: Annotated[int, Field(ge=3)] = 15
    cuts: Annotated[int, Field(ge=15)] = 60
    runtime: Literal["torch", "onnxruntime", "command"] = "torch"
    command: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 600.0
    max_margin: Annotated[float, Field(gt=0)] = 0.5

    @model_validator(mode="before")
    @classmethod
    def _apply_command(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("command") is None:
            return values
        return {"runtime": "command", "repeats": 3, **values}

    @model_validator(mode="after")
    def _check_runtime(self) -> "LatencyConfig":
        if (self.runtime == "command") != (self.command is not None):
            raise ValueError("runtime command and a command belong together: give both, or neither")
        if self.runtime != "torch" and self.precision != "float32":
            raise ValueError(f"runtime {self.runtime} measures in float32: leave precision out")
        if self.command is not None:
            try:
                words = shlex.split(self.command)
            except ValueError as error:
                raise ValueError(f"command {self.command[:200]!r} is no command: {error}") from error
            if not words:
                raise ValueError("command is empty: expected a program and its arguments, such as ./time {onnx}")
        return self


class BudgetConfig(Section):
    """The largest ratio of each cost to the dense network's: one number, or [least, most] for a front between.

    `macs`, `params`, `memory` (peak activation bytes of one float32 image) and `latency` (`measured` says how) may
    be given alone or together.

    `keep` sets fixed widths instead: the share of channels that every group keeps, or one share per pattern of group
    names (``{"layer1.*": 0.5, "*": 0.7}``; the first match applies, groups without one stay unpruned).

    `round_to`: widths are multiples of it. auto chooses 8, 4, 2 or 1 by the width of the group and the budget, since
    kernels are slow at other widths (blend/allocation.py).
    """

    macs: Span | None = None
    params: Span | None = None
    memory: Span | None = None
    latency: Span | None = None
    measured: LatencyConfig = LatencyConfig()
    keep: Ratio | dict[str, Ratio] | None = None
    min_channels: Positive = 2
    min_keep: Annotated[float, Field(ge=0, le=1)] = 0.05
    round_to: Positive | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _check_budgets(self) -> "BudgetConfig":
        if not self.get_spans() and self.keep is None:
            raise ValueError(f"no budget is given: set {' or '.join(f'budget.{cost}' for cost in COSTS)}")
        if self.keep is not None and self.get_spans():
            given = " and ".join(f"budget.{cost}" for cost in self.get_spans())
            raise ValueError(f"budget.keep gives the widths themselves: leave out {given}")
        for name, (low, high) in self.get_spans().items():
            if low > high:
                raise ValueError(f"budget.{name} is [{low}, {high}]: the smaller ratio comes first")
        return self

    def without_runtime(self) -> "BudgetConfig":
        """Return the section with latency measured in torch, under else equal conditions."""
        measured = self.measured.model_copy(update={"runtime": "torch", "command": None})
        return self.model_copy(update={"measured": measured})

    def get_spanned_costs(self) -> tuple[str, ...]:
        """Return the costs whose budgets are a range."""
        return tuple(name for name, (low, high) in self.get_spans().items() if high > low)

    def get_spans(self) -> dict[str, tuple[float, float]]:
        """Return the least and the largest ratio of each budgeted cost."""
        asked = {name: getattr(self, name) for name in COSTS}
        return {
            name: span if isinstance(span, tuple) else (span, span) for name, span in asked.items() if span is not None
        }


class FitnessConfig(Section):
    """Repair, recovery and evaluation of a cut, and the device.

    `repair`: whether each layer is refitted to its outputs in the dense network before recovery (training/refit.py).
    `against`: whether the loss is the cross-entropy with the labels, or the divergence from the dense network's
    outputs, which needs fewer images to distinguish two networks. auto is the divergence for a classifier until it is
    trained, and the cross-entropy after.
    `capacity`: exponent of the parameters in the loss of an untrained network, which is divided by the share of them
    that is kept to this power (fitness/evaluator.py): a training makes use of them.
    `temperature`: whether a classifier's loss is taken at the temperature of the logits that suits each network best,
    or at the one it has. Training corrects the temperature within a few steps (fitness/temperature.py).
    `precision` of the products: auto is bfloat16 where that is measurably faster than float32 on the device.
    """

    fidelity: Literal["raw", "recalibrated", "tuned"] = "recalibrated"
    repair: Literal["none", "refit"] = "refit"
    against: Literal["labels", "dense", "auto"] = "labels"
    capacity: Annotated[float, Field(ge=0)] = 0.0
    temperature: Literal["fitted", "own"] = "fitted"
    recalibration_images: Positive = 512
    batch_size: Positive = 100
    tuning: TuningConfig = TuningConfig()
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"

    def get_precision(self) -> Literal["float32", "bfloat16", "float16"]:
        """Return the precision; an `auto` that is not resolved yet counts as float32."""
        return "float32" if self.precision == "auto" else self.precision


OPTIMIZERS = ("auto", "cma", "nsga2", "random")
"""The values of `search.optimizer`."""


class SearchConfig(Section):
    """Length, schedule and optimizer of the search.

    It ends after `evaluations`, or earlier: after `seconds`, or after `stalled` generations without an improvement.
    `schedule`: generational, whose result does not depend on the number of workers; or steady, where a free worker
    never waits for a slow one (a generation is then `population` completed evaluations). `blend`: for the whole network
    one weight per cluster of criteria, whose `members` share it by evolved weights, by a choice, or equally; one weight
    per criterion (network); or separate choices and factors in every group. `deviations` adds a weight per group and
    cluster to the first two.
    `optimizer`: auto is cma at one budget and nsga2 over a range of budgets. `seeds`: methods whose widths are found
    before the search and added to its first generation; uniform and global allocations are always there.
    `blocks`: whether the search also decides which residual blocks are removed (structure/residual_blocks.py). auto is
    true with budget.latency, where nothing else excludes it.
    """

    evaluations: Positive = 200
    schedule: Literal["generational", "steady"] = "generational"
    population: Annotated[int, Field(ge=4, le=100_000)] = 24
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.8
    mutation: Annotated[float, Field(gt=0, le=1)] = 0.1
    seconds: Annotated[float, Field(gt=0)] | None = None
    stalled: Positive | None = None
    anchors: Positive = 3
    blend: Literal["clusters", "network", "group"] = "clusters"
    members: Literal["weights", "choice", "mean"] = "weights"
    deviations: bool = False
    blocks: bool | Literal["auto"] = "auto"
    optimizer: Annotated[str, OneOf(lambda: OPTIMIZERS, removed=("surrogate",))] = "auto"
    seeds: tuple[Annotated[str, OneOf(list_seed_names)], ...] = ()
    drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    drop_ratio: Annotated[float, Field(ge=0, le=1)] = 0.08


class FinalsConfig(Section):
    """The long fine-tune of the `picks` best networks by validation, and of the best controls, on `seeds` seeds.

    auto is one pick, or none where networks cannot be trained or tested. 0 picks leave the networks as the search
    evaluated them. `distillation` is the weight of the divergence from the dense network's outputs in the loss.
    `workers` train each network together on Ray, and share its batches. `stages` above 1 cut each network step by step
    during its training.
    """

    picks: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    seeds: Positive = 1
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    workers: Positive = 1
    tuning: FinalTuningConfig = FinalTuningConfig()
    probe: RateProbeConfig = RateProbeConfig()
    stages: Annotated[int, Field(ge=1, le=100)] = 1
    staging: StagingConfig = StagingConfig()

    def count_picks(self) -> int:
        """Return the number of picks; an `auto` that is not resolved yet counts as none."""
        return 0 if self.picks == "auto" else self.picks

    @model_validator(mode="after")
    def _check_workers(self) -> "FinalsConfig":
        if self.tuning.batch_size % self.workers:
            raise ValueError(
                f"the {self.workers} workers cannot share batches of {self.tuning.batch_size} evenly: choose a "
                "finals.tuning.batch_size that they divide"
            )
        return self


class EngineConfig(Section):
    """The engine that runs evaluations. `ray`: off (in this process), local, auto, or the address of a cluster.

    `workers`: by default as many as fit, on nodes that join later too. `device`: the workers' device; same is that of
    the searching process. `patience`: seconds without any worker before the search stops (it can be resumed).
    """

    ray: str = "off"
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    device: Literal["same", "cpu", "cuda"] = "same"
    threads: Annotated[int, Field(ge=1, le=10_000)] | None = None
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    timeout: Annotated[float, Field(gt=0)] = 600.0
    final_timeout: Annotated[float, Field(gt=0)] = 86_400.0
    retries: Annotated[int, Field(ge=0)] = 2
    patience: Annotated[float, Field(gt=0)] = 1800.0


Options = TypeVar("Options", bound=Section)


class Config(Section):
    """Everything that determines a run.

    `method` names a way to search; it sets fields that the config leaves out (method_spec.py). `allocation` is how the
    budget is shared out: evolved, or by widths found before the search, which then evolves the blend alone.
    `transform`: whether the search also decides which layers become a depthwise and a pointwise one
    (structure/depthwise.py). Methods add sections of their own: use `load_config_class` to validate a config.
    """

    method: Annotated[str, OneOf(list_method_names)] = "blended"
    allocation: Annotated[str, OneOf(list_allocation_names)] = "evolved"
    transform: Literal["none", "depthwise"] = "none"
    model: ModelConfig
    data: DataConfig
    criteria: CriteriaConfig = CriteriaConfig()
    budget: BudgetConfig
    fitness: FitnessConfig = FitnessConfig()
    search: SearchConfig = SearchConfig()
    promote: PromoteConfig = PromoteConfig()
    training: TrainingConfig = TrainingConfig()
    finals: FinalsConfig = FinalsConfig()
    ladder: LadderConfig = LadderConfig()
    engine: EngineConfig = EngineConfig()
    allocating: AllocationConfig = AllocationConfig()
    task: TaskConfig = TaskConfig()
    # here come the sections of methods
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # the range that scikit-learn accepts

    def get_options(self, section: type[Options]) -> Options:
        """Return a method's own section, by its class."""
        found = next(spec for spec in list_methods() if spec.options is section)
        options: Options = getattr(self, found.section_name)
        return options


_method_sections: set[str] = set()
"""Sections of `Config` that come from methods."""


def load_config_class() -> type[Config]:
    """Return `Config` with the sections of the registered methods, and no others, before `seed`.

    Raises ConfigError where a method's section has the name of another field.
    """
    fields = Config.__pydantic_fields__
    sections = {spec.section_name: spec.options for spec in list_methods() if spec.options is not None}
    taken = sections.keys() & (fields.keys() - _method_sections)
    if taken:
        raise ConfigError(f"a method's section is called {min(taken)!r}, as another field of the config")
    if {name: fields[name].annotation for name in _method_sections} != sections:
        last = fields.pop("seed")
        for name in _method_sections:
            del fields[name]
        fields.update({name: FieldInfo(annotation=item, default=item()) for name, item in sections.items()})
        fields["seed"] = last
        _method_sections.clear()
        _method_sections.update(sections)
        Config.model_rebuild(force=True)
    return Config
