"""The spec of method ``random``."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits

SPEC = MethodSpec(
    name="random",
    summary="Draw blends and widths at random, half of them around the best baseline.",
    implementation="blendsearch.pipeline.methods.random.method:Random",
    traits=Traits(accepts_seeds=True, ladder=True, control="default"),
    defaults={"allocation": "evolved", "search": {"blend": "clusters", "optimizer": "random"}},
)
