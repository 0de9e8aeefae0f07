"""Multi-head attention as plain layers: its heads can then be cut, and the channels it reads apart from them.

``nn.MultiheadAttention`` takes its width from its input and its projections from one parameter. No cut fits it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.structure.outputs import are_close

TOKENS = 5
"""Tokens of the random sequences on which both forms are compared."""


class FoldedAttention(nn.Module):
    """Computes what a ``nn.MultiheadAttention`` computes, with one linear layer per projection."""

    in_proj_bias = None
    _qkv_same_embed_dim = True

    def __init__(self, width: int, heads: int, has_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.dropout, self.batch_first = 0.0, False
        self.query = nn.Linear(width, width, has_bias, device="meta")
        self.key = nn.Linear(width, width, has_bias, device="meta")
        self.value = nn.Linear(width, width, has_bias, device="meta")
        self.out_proj = nn.Linear(width, width, has_bias, device="meta")

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of ``nn.MultiheadAttention``."""
        is_batched = query.ndim == 3
        batch = 0 if self.batch_first or not is_batched else 1
        inputs = [item if is_batched else item.unsqueeze(0) for item in (query, key, value)]
        inputs = [item.transpose(0, 1) for item in inputs] if batch else inputs
        q, k, v = (
            project(item).view(len(item), -1, self.num_heads, self.head_dim).transpose(1, 2)
            for project, item in zip((self.query, self.key, self.value), inputs, strict=True)
        )
        mask = _merge_masks(attn_mask, key_padding_mask, len(q), q.dtype)
        dropout = self.dropout if self.training else 0.0
        weights = _compute_weights(q, k, mask, dropout) if need_weights else None
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout) if weights is None else weights @ v
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        output = output.transpose(0, 1) if batch else output if is_batched else output.squeeze(0)
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if is_batched else weights.squeeze(0)
        return output, weights


def can_fold_attention(module: nn.Module) -> bool:
    """Return True for a ``nn.MultiheadAttention`` with one width and without learnt keys."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def make_plain_attention(attention: nn.MultiheadAttention) -> FoldedAttention:
    """Make the plain form of an attention, with copies of its tensors."""
    has_bias = attention.in_proj_bias is not None
    plain = FoldedAttention(attention.embed_dim, attention.num_heads, has_bias)
    plain.dropout, plain.batch_first = attention.dropout, attention.batch_first
    projections = (plain.query, plain.key, plain.value)
    for layer, weight in zip(projections, attention.in_proj_weight.chunk(3), strict=True):
        layer.weight = nn.Parameter(weight.detach().clone(), attention.in_proj_weight.requires_grad)
    if has_bias:
        for layer, bias in zip(projections, attention.in_proj_bias.chunk(3), strict=True):
            layer.bias = nn.Parameter(bias.detach().clone(), attention.in_proj_bias.requires_grad)
    plain.out_proj.weight, plain.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias
    return plain.train(attention.training)


def fold_attention(attention: nn.MultiheadAttention, tolerance: float) -> FoldedAttention | None:
    """Return the plain form of an attention; None where its outputs differ by more than `tolerance`, relatively."""
    plain = make_plain_attention(attention)
    generator = torch.Generator().manual_seed(0)
    shape = (2, TOKENS, attention.embed_dim)
    inputs = [torch.randn(shape, generator=generator, dtype=attention.in_proj_weight.dtype) for _ in range(3)]
    with torch.no_grad():
        for need_weights in (False, True):
            expected, found = (item(*inputs, need_weights=need_weights) for item in (attention, plain))
            for one, other in zip(expected, found, strict=True):
                if one is not None and not are_close(other, one, tolerance):
                    return None
    return plain


def _compute_weights(query: Tensor, key: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    return F.dropout((scores if mask is None else scores + mask).softmax(dim=-1), dropout)


def _merge_masks(
    attention_mask: Tensor | None, padding_mask: Tensor | None, images: int, dtype: torch.dtype
) -> Tensor | None:
    """Return what is added to the scores, (..., tokens, tokens); in masks of booleans, True is left out."""
    mask = None
    if attention_mask is not None:
        mask = _make_additive(attention_mask, dtype)
        mask = mask.view(images, -1, *mask.shape[1:]) if mask.ndim == 3 else mask
    if padding_mask is not None:
        padding = _make_additive(padding_mask, dtype).reshape(images, 1, 1, -1)
        mask = padding if mask is None else mask + padding
    return mask


def _make_additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
