"""Texts on what stays unpruned: why, and its share of the cost."""

from collections.abc import Sequence

from torch import nn

from blendsearch.structure.trace import Structure

SHOWN = 5
"""Reasons that a message lists; the rest is counted."""

OUTPUT = "its channels are the network's output"
"""Reason for the last layer, which no message needs to explain."""


def describe_unreached(names: Sequence[str]) -> str:
    """Describe layers that no traced image reached, for a warning."""
    return (
        f"{_list_names(names)} did not run on any of the traced training images: what such a layer may read stays "
        "unpruned; remove layers that are never used"
    )


def describe_undecided(names: Sequence[str]) -> str:
    """Describe modules that may run other code for other images, for a warning."""
    return (
        f"the code of {_list_names(names)} reads numbers of activations, and took one way on all traced training "
        "images: a way that only other images take is not verified, and pruned networks may fail there; check an "
        "export on such an image"
    )


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def describe_unpruned(model: nn.Module, structure: Structure, cost: str = "macs") -> str:
    """Describe the groups that are never cut, those with the largest share of the cost first; empty for none."""
    shares = compute_shares(model, structure, cost)
    found: dict[str, float] = {}
    for item in structure.frozen:
        if item.reason != OUTPUT:
            text = f"{item.name}: {item.reason}"
            found[text] = max(found.get(text, 0.0), shares.get(item.name, 0.0))
    if not found:
        return ""
    order = sorted(found, key=lambda text: -found[text])
    listed = "; ".join(f"{text} ({found[text]:.1%} of the {cost})" for text in order[:SHOWN])
    rest = f"; and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    return f". Unpruned are {listed}{rest}"


def compute_shares(model: nn.Module, structure: Structure, cost: str = "macs") -> dict[str, float]:
    """Compute the share of `cost` of the dense network that the parameters of each module account for."""
    oracle = structure.oracle
    widths = oracle.slope @ structure.maps.sizes + oracle.base
    factors = oracle.macs if cost == "macs" else oracle.params
    terms = widths[oracle.first] * widths[oracle.second] * factors
    shares: dict[str, float] = {}
    for (name, _), term in zip(model.named_parameters(), terms.tolist(), strict=False):
        module = name.rpartition(".")[0]
        shares[module] = shares.get(module, 0.0) + term / max(1, oracle.dense[cost])
    return shares
