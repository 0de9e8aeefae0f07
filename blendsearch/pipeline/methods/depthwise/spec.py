"""The spec of method ``depthwise``."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config


def check(config: Config) -> None:
    """Require uniform widths, or widths that the config gives."""
    if config.allocation != "uniform" and config.budget.keep is None:
        raise ValueError("method depthwise cuts all layers alike: leave allocation uniform")


SPEC = MethodSpec(
    name="depthwise",
    summary="Cut all layers alike and decompose every k x k convolution (structure/depthwise.py).",
    implementation="blendsearch.pipeline.methods.depthwise.method:Depthwise",
    traits=Traits(fixed_networks=True, spans=False, transform="required", control="optional"),
    defaults={
        "allocation": "uniform",
        "transform": "depthwise",
        "search": {"seeds": []},
        "training": {"elastic": {"epochs": 0}},
    },
    check=check,
)
