"""A traced ResNet-56 and a decoder for it."""

import numpy as np

from blendsearch.blend.allocation import make_widths
from blendsearch.blend.clustering import cluster_groups
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.group_space import make_group_space
from blendsearch.criteria.table import build_score_table
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.cifar_resnet import cifar_resnet

NAMES = ("a", "b", "c", "d", "e")
RESNET = trace_structure(cifar_resnet(56), (3, 32, 32))


def make_decoder(structure=RESNET, budget=(0.5, 0.5), *, round_to=1, cost="macs", seed=0) -> Decoder:
    rng = np.random.default_rng(seed)
    sizes = {group.name: group.channels for group in structure.maps.groups}
    rows = {name: {group: rng.random(channels) for group, channels in sizes.items()} for name in NAMES}
    table = build_score_table(NAMES, rows, sizes)
    space = make_group_space(table, cluster_groups(table, "kmeans", 3, 0))
    return Decoder(space, table, structure.oracle, make_widths(structure.maps.sizes, 2, 0.05, round_to), {cost: budget})


DECODER = make_decoder()
