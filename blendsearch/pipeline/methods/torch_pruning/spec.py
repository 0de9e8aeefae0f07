"""The spec of method ``torch-pruning``."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits

SPEC = MethodSpec(
    name="torch-pruning",
    summary="Evaluate the cuts of Torch-Pruning's global and local magnitude pruners.",
    implementation="blendsearch.pipeline.methods.torch_pruning.method:TorchPruning",
    traits=Traits(
        fixed_networks=True,
        spans=False,
        transform="never",
        fixed_widths=False,
        population=False,
        seeds_others=True,
        control="default",
    ),
    defaults={
        "allocation": "evolved",
        "transform": "none",
        "criteria": {"pool": ["l2"]},
        "search": {"evaluations": 2, "seeds": []},
    },
    origins=("Torch-Pruning global", "Torch-Pruning local"),
)
