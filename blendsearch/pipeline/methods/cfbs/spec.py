"""The spec of method ``cfbs``. Its defaults are the paper's values; method.py lists what the paper leaves open."""

from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.schema import Config


def check(config: Config) -> None:
    """Require widths that are known before the search."""
    if config.allocation != "uniform" and config.budget.keep is None:
        raise ValueError("method cfbs takes widths that are given beforehand: leave allocation uniform")


SPEC = MethodSpec(
    name="cfbs",
    summary="Evolve one criterion per cluster and its calibration factor, within given widths.",
    implementation="blendsearch.pipeline.methods.cfbs.method:CfbsMethod",
    traits=Traits(spans=False, transform="never"),
    defaults={
        "allocation": "uniform",
        "criteria": {
            "pool": [
                *("l1", "l2", "fpgm", "fermat", "bn_gamma", "bn_beta"),
                *("taylor_weight", "taylor_weight_l2", "taylor_gamma", "taylor_beta", "apoz", "entropy"),
            ],
            "clustering": "kmeans",
            "clusters": 3,
            "temperature": 1.0,
        },
        "fitness": {
            "fidelity": "tuned",
            "repair": "none",
            "tuning": {"epochs": 3, "rate": 0.001, "weight_decay": 1e-4, "decay": "constant", "nesterov": False},
        },
        "search": {
            "seeds": [],
            "blend": "group",
            "population": 20,
            "evaluations": 1013,  # 50 iterations of 20, 12 single criteria, the equal blend
            "crossover": 0.8,
            "mutation": 0.1,
            "drop": 0.05,
            "drop_ratio": 0.08,
        },
        "finals": {
            "picks": 5,
            "tuning": {"epochs": 40, "rate": 0.001, "weight_decay": 1e-4, "nesterov": False, "warmup": 0.0},
        },
    },
    check=check,
)
