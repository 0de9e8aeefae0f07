"""The spec of method ``rules``, which `blendsearch probe` runs."""

from typing import Annotated

from pydantic import Field, field_validator

from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config.sections import Positive, Section


class RulesConfig(Section):
    """The compressions at which the rules are evaluated, and how many networks are trained at each.

    `factors`: the dense cost divided by the budgeted one. `trained`: the number of rules, the best by loss, whose
    networks get the long fine-tune at each factor.
    """

    factors: tuple[Annotated[float, Field(gt=1, le=10_000)], ...] = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
    trained: Positive = 2

    @field_validator("factors")
    @classmethod
    def _sort_factors(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if not factors:
            raise ValueError("expected at least one factor")
        return tuple(sorted(set(factors)))


def check(config: Config) -> None:
    """Require a budget of one cost that holds all factors."""
    factors, spans = config.get_options(RulesConfig).factors, config.budget.get_spans()
    if len(spans) != 1:
        raise ValueError("method rules takes one budgeted cost: leave one of budget.macs, params, memory and latency")
    ((cost, (low, high)),) = spans.items()
    if low > 1 / factors[-1] + 1e-9 or high < 1 / factors[0] - 1e-9:
        raise ValueError(
            f"budget.{cost} is [{low:g}, {high:g}]: rules.factors need [{1 / factors[-1]:.4g}, {1 / factors[0]:.4g}]"
        )


SPEC = MethodSpec(
    name="rules",
    summary="Evaluate the known rules at several compressions, and train the best of each.",
    implementation="blendsearch.pipeline.methods.rules.method:Rules",
    traits=Traits(fixed_networks=True, transform="never", fixed_widths=False, accepts_seeds=True),
    defaults={"search": {"evaluations": 100_000}},
    options=RulesConfig,
    check=check,
)
