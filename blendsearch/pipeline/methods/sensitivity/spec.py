"""The spec of method and allocation ``sensitivity``."""

from blendsearch.pipeline.methods.one_network_spec import ONE_NETWORK_DEFAULTS
from blendsearch.runs.config.method_spec import MethodSpec, Traits

SPEC = MethodSpec(
    name="sensitivity",
    summary="Measure how much each group's width matters, and read all widths from these curves.",
    implementation="blendsearch.pipeline.methods.sensitivity.method:Sensitivity",
    traits=Traits(
        one_network=True,
        fixed_networks=True,
        transform="never",
        fixed_widths=False,
        population=False,
        seeds_others=True,
        control="optional",
    ),
    defaults=ONE_NETWORK_DEFAULTS | {"allocation": "sensitivity"},
    origins=("sensitivity",),
)
