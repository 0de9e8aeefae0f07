"""Rules that concern several fields of a config. Each function raises ValueError with one line."""

from collections.abc import Collection

from blendsearch.errors import ConfigError
from blendsearch.runs.config.block_removal_rules import find_block_conflict
from blendsearch.runs.config.ladder_plan import can_use_ladder, make_plan
from blendsearch.runs.config.method_registry import PLAIN_ALLOCATIONS, get_method
from blendsearch.runs.config.method_spec import MethodSpec
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config

REMOVED_OPTIMIZERS = {"surrogate": "use cma, which finds networks as accurate in a third of the time"}
"""Values of `search.optimizer` of earlier versions, each with its replacement."""


def check_config(config: Config) -> None:
    """Raise ValueError for the first rule that `config` breaks."""
    check_weights(config)
    check_optimizer(config)
    check_transform(config)
    check_methods(config)
    check_promote(config)
    check_stages(config)
    check_elastic(config)
    check_ladder(config)
    check_blocks(config)


def check_weights(config: Config) -> None:
    """Require weights, or a schedule to train by, for a network that is not a Python object."""
    model = config.model
    if model.weights is None and model.train is None and not model.factory.startswith(f"{PYTHON_PREFIX}:"):
        raise ValueError(
            "the model has no weights: set model.weights to a file, or to factory where the factory brings them, or "
            "model.train to train it first"
        )


def check_optimizer(config: Config) -> None:
    """Require one budget and one blend for CMA-ES."""
    search = config.search
    if search.optimizer == "cma" and (config.budget.get_spanned_costs() or search.blend == "group"):
        raise ValueError(
            "search.optimizer cma searches at one budget, with search.blend clusters or network: take nsga2 or auto"
        )


def check_transform(config: Config) -> None:
    """Refuse costs that are not known of decomposed layers."""
    unknown = [cost for cost in ("memory", "latency") if cost in config.budget.get_spans()]
    if config.transform != "none" and unknown:
        raise ValueError(
            f"budget.{unknown[0]} is not known of networks with decomposed layers: leave transform out, or "
            "give budget.macs or budget.params"
        )


def check_methods(config: Config) -> None:
    """Check the traits and the rules of every method that `config` names."""
    method = get_method(config.method)
    seeding = [name for name in (*config.search.seeds, config.allocation) if name != config.method]
    named = [*(get_method(name) for name in dict.fromkeys(seeding) if name not in PLAIN_ALLOCATIONS), method]
    for spec in named:
        _check_traits(config, spec)
    if config.search.seeds and (not method.traits.accepts_seeds or config.allocation != "evolved"):
        raise ValueError("search.seeds begin a search that evolves its widths: leave them out")
    if method.traits.trains_itself and config.finals.count_picks():
        raise ValueError(f"method {config.method} trains its network itself: leave finals.picks at 0")
    for spec in named:
        spec.check(config)


def check_promote(config: Config) -> None:
    """Refuse a promotion that would repeat the search's own evaluations."""
    promote = config.promote
    if not promote.share:
        return
    if promote.images == "same" and promote.fidelity == config.fitness.fidelity:
        raise ValueError(
            f"promote would repeat the same evaluations: fitness.fidelity is {promote.fidelity} too; take another "
            "promote.fidelity, or promote.images unused"
        )
    if promote.images == "unused" and config.data.val_limit is None:
        raise ValueError(
            "promote.images unused are validation images that the search does not see: set data.val_limit to how many "
            "it is to see"
        )


def check_stages(config: Config) -> None:
    """Refuse finals in stages where they cannot be trained so."""
    conflict = find_stage_conflict(config, config.training.get_function_names())
    if conflict is not None:
        raise ValueError(conflict)


def find_stage_conflict(config: Config, roles: Collection[str]) -> str | None:
    """Return why finals cannot be trained in stages as `config` says, or None; `roles` of user-defined functions."""
    called, once = f"finals.stages is {config.finals.stages}", "or set finals.stages to 1"
    if config.finals.stages == 1:
        return None
    if config.finals.workers > 1:
        return (
            f"{called}, which {config.finals.workers} workers cannot train together: leave finals.workers out, {once}"
        )
    if config.transform != "none":
        return f"{called}, and networks with decomposed layers are cut at once: leave transform out, {once}"
    excluded = [role for role in ("train_fn", "scheduler") if role in roles]
    return f"{called}, which excludes a user-defined {excluded[0]}: leave it out, {once}" if excluded else None


def check_blocks(config: Config) -> None:
    """Refuse what does not know networks with removed blocks."""
    conflict = find_block_conflict(config)
    if config.search.blocks is True and conflict is not None:
        raise ValueError(f"search.blocks removes blocks, {conflict}, or search.blocks")


def check_elastic(config: Config) -> None:
    """Refuse an elastic tune where candidates are not slices of one network, or keep its batch-norm statistics."""
    if not config.training.elastic.epochs:
        return
    if config.transform != "none":
        raise ValueError("training.elastic tunes slices of the dense network's layers: leave it out with a transform")
    if get_method(config.method).traits.trains_itself:
        raise ValueError(f"method {config.method} trains its network itself: leave training.elastic out")
    if config.fitness.fidelity == "raw":
        raise ValueError(
            "training.elastic needs new batch-norm statistics: take fitness.fidelity recalibrated or tuned"
        )


def check_ladder(config: Config) -> None:
    """Refuse a ladder whose cost does not pay for its finalists."""
    if can_use_ladder(config):
        make_plan(config.ladder, config.finals.count_picks())


def check_searchable(config: Config) -> None:
    """Raise ConfigError for a config that only a finished run of an earlier version can have."""
    instead = REMOVED_OPTIMIZERS.get(config.search.optimizer)
    if instead is not None:
        raise ConfigError(f"search.optimizer {config.search.optimizer} was removed in 0.2: {instead}")


def _check_traits(config: Config, spec: MethodSpec) -> None:
    called = f"method {spec.name}" if spec.name == config.method else spec.name
    _check_transform_trait(config, spec, called)
    if not spec.traits.fixed_widths and not config.budget.get_spans():
        raise ValueError(f"{called} needs a budget: give one instead of budget.keep")
    if config.budget.get_spanned_costs():
        _check_range_traits(config, spec, called)
    _check_costs_trait(config, spec, called)


def _check_transform_trait(config: Config, spec: MethodSpec, called: str) -> None:
    """Compare the config's transform with the method's; only the run's own method can require one."""
    trait, decomposes = spec.traits.transform, config.transform != "none"
    if trait == "never" and decomposes:
        raise ValueError(f"{called} decomposes no layers: leave transform out")
    if spec.name == config.method and trait == "required" and not decomposes:
        raise ValueError(f"{called} decomposes layers: leave transform as it is there")


def _check_range_traits(config: Config, spec: MethodSpec, called: str) -> None:
    """Refuse a range of budgets to a method that needs one budget."""
    traits = spec.traits
    if traits.one_network and (spec.name == config.method or not traits.spans):
        raise ValueError("one network is trained towards one budget: give one number, not [least, most]")
    if not traits.spans:
        raise ValueError(f"{called} searches at one budget: give one number, not [least, most]")


def _check_costs_trait(config: Config, spec: MethodSpec, called: str) -> None:
    """Refuse budgets of costs that the method does not know."""
    costs = spec.traits.costs
    if costs is None:
        return
    unknown = [name for name in config.budget.get_spans() if name not in costs]
    if unknown:
        raise ValueError(f"{called} can budget {' and '.join(sorted(costs))} alone: leave budget.{unknown[0]} out")
