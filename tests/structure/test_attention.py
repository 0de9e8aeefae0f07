"""Attention heads, which are cut whole, with the costs of products between activations."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_reasons, get_widths, make_images, trace_randomized
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from blendsearch.structure.attention_folding import make_plain_attention
from blendsearch.structure.folding import fold_computed_weights, list_folded_layers
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


class TorchTransformer(nn.Module):
    """Patches, and transformer layers of torch."""

    def __init__(self, layers: nn.Module, batch_first: bool = True) -> None:
        super().__init__()
        self.patches, self.layers, self.out = nn.Conv2d(3, 12, 2, stride=2), layers, nn.Linear(12, 3)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = self.layers(x.permute(0, 2, 1) if self.batch_first else x.permute(2, 0, 1))
        return self.out(x.mean(dim=1 if self.batch_first else 0))


class SelfAttention(nn.Module):
    """Attention called by hand, with its weights as a second result."""

    def __init__(self, mask: Tensor | None = None, **options: bool) -> None:
        super().__init__()
        self.attention, self.mask = nn.MultiheadAttention(12, 3, batch_first=True, **options), mask

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, attn_mask=self.mask)[0]


def make_encoder(batch_first: bool, layers: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


FOLDED = {
    "an encoder": (lambda: TorchTransformer(make_encoder(True, 2)), {3, 12, 20}),
    "tokens first": (lambda: TorchTransformer(make_encoder(False), batch_first=False), {3, 12, 20}),
    "attention alone": (lambda: TorchTransformer(SelfAttention()), {3, 12}),
    "without bias": (lambda: TorchTransformer(SelfAttention(bias=False)), {3, 12}),
    "a mask": (lambda: TorchTransformer(SelfAttention(torch.ones(16, 16).triu(1) > 0)), {3, 12}),
}


@pytest.mark.parametrize(("make", "widths"), FOLDED.values(), ids=FOLDED)
def test_attention_of_torch_is_folded_and_its_heads_are_cut(make: Callable[[], nn.Module], widths: set[int]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        expected = model(IMAGES)
    names = fold_computed_weights(model, IMAGES)
    assert names == list_folded_layers(model) != ()
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    structure = trace_randomized(model, IMAGES)
    assert set(get_widths(structure).values()) == widths
    assert set(get_reasons(structure)) == {"out"}
    check_cuts(model, structure, IMAGES)


def test_attention_with_learnt_keys_is_not_folded() -> None:
    model = TorchTransformer(SelfAttention(add_bias_kv=True)).eval()
    assert fold_computed_weights(model, IMAGES) == ()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_folded_attention_accepts_what_that_of_torch_accepts(batch_first: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    folded = make_plain_attention(attention)
    tokens, padding = torch.randn(4, 4, 12), torch.arange(16).reshape(4, 4) % 4 == 3
    calls = [
        {"key_padding_mask": padding},
        {"attn_mask": torch.ones(4, 4).triu(1) > 0, "key_padding_mask": padding},
        {"attn_mask": torch.rand(12, 4, 4)},
        {"average_attn_weights": False},
    ]
    for options in calls:
        for found, expected in zip(
            folded(tokens, tokens, tokens + 1, need_weights=need_weights, **options),
            attention(tokens, tokens, tokens + 1, need_weights=need_weights, **options),
            strict=True,
        ):
            assert (found is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    one = folded(tokens[0], tokens[0], tokens[0], need_weights=need_weights)[0]
    torch.testing.assert_close(one, attention(tokens[0], tokens[0], tokens[0])[0], rtol=1e-4, atol=1e-5)


def test_a_vision_transformer_is_cut_everywhere() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(8, 2, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=20, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    assert len(fold_computed_weights(model, IMAGES)) == 2
    structure = trace_randomized(model, IMAGES)
    assert sorted(get_widths(structure).values()) == [3, 3, 12, 20, 20]
    assert set(get_reasons(structure)) == {"heads.head"}
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
