"""The spec of method ``blended``."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config


def check(config: Config) -> None:
    """Require a population that NSGA-II's tournaments can pair."""
    if config.method != "blended":
        return
    spanned, search = config.budget.get_spanned_costs(), config.search
    automatic = "nsga2" if spanned or search.blend == "group" else "cma"
    optimizer = automatic if search.optimizer == "auto" else search.optimizer
    if optimizer == "nsga2" and len(spanned) < 2 and search.population % 4:
        raise ValueError(f"search.population is {search.population}: NSGA-II's tournaments need a multiple of 4")


SPEC = MethodSpec(
    name="blended",
    summary="Evolve a blend of criteria and the widths of all layers.",
    implementation="blendsearch.pipeline.methods.blended.method:Blended",
    traits=Traits(accepts_seeds=True, ladder=True),
    check=check,
)
