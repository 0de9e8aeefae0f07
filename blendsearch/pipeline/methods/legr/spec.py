"""The spec of method ``legr``."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config


def check(config: Config) -> None:
    """Require the criterion that LeGR ranks by, and a budget."""
    if config.budget.keep is not None or "l2" not in config.criteria.pool:
        raise ValueError("method legr ranks by l2: put it in criteria.pool, and give a budget instead of budget.keep")


SPEC = MethodSpec(
    name="legr",
    summary="Evolve an affine map of each group's squared L2 norms, and rank all channels by it.",
    implementation="blendsearch.pipeline.methods.legr.method:LegrMethod",
    traits=Traits(spans=False, transform="never", control="default"),
    defaults={
        "allocation": "evolved",
        "transform": "none",
        "criteria": {"pool": ["l2"]},
        "search": {"seeds": []},
    },
    check=check,
    origins=("l2 global ranking",),
)
