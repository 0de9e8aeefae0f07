"""Attention heads, which are cut whole, with the costs of products between activations."""

import pytest
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_reasons, get_widths, make_images, trace_randomized
from torch import Tensor, nn

from blendsearch.structure.trace import trace_structure

IMAGES = make_images(4, 3, 8, 8)


class Attention(nn.Module):
    """Self-attention in the style of timm; the number of heads, and the width of all, are attributes."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim, self.fused = heads, 4, heads * 4, fused
        self.qkv, self.proj = nn.Linear(width, 3 * heads * 4), nn.Linear(heads * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, tokens, self.attn_dim))


class Transformer(nn.Module):
    """Patches, a class token, position embeddings, and one block."""

    def __init__(self, heads: int = 5, fused: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.token = nn.Conv2d(3, 12, 2, stride=2), nn.Parameter(torch.rand(1, 1, 12))
        self.places, self.norm1, self.norm2 = nn.Parameter(torch.rand(1, 17, 12)), nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = Attention(12, heads, fused)
        self.grow, self.shrink, self.out = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        x = x + self.attention(self.norm1(x))
        x = x + self.shrink(F.gelu(self.grow(self.norm2(x))))
        return self.out(x[:, 0])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("heads", [3, 5])
def test_heads_are_cut_whole_and_the_embedding_by_channels(heads: int, fused: bool) -> None:
    model = Transformer(heads, fused).eval()
    structure = trace_randomized(model, IMAGES)
    assert get_widths(structure) == {"patches": 12, "attention.qkv": heads, "grow": 20}
    assert set(get_reasons(structure)) == {"out"}
    check_cuts(model, structure, IMAGES)


class Pooled(nn.Module):
    """A product of activations over all channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(F.relu(self.one(x))).flatten(2)
        return self.out((x @ x.transpose(1, 2)).flatten(1))


def test_products_over_channels_stay_unpruned() -> None:
    structure = trace_structure(Pooled().eval(), (3, 8, 8), IMAGES)
    assert get_widths(structure) == {"one": 8}
    assert get_reasons(structure)["two"] == "bmm in Pooled reads all its channels at once"
