"""Folding of batch-norms: foldable pairs, equal outputs, and a restored network afterwards."""

import pytest
import torch
from torch import Tensor, nn

from blendsearch.fitness.bn_folding import ConvNormPair, find_foldable_pairs, fold_batch_norms
from blendsearch.zoo.cifar_resnet import cifar_resnet


def settled(model: nn.Module) -> nn.Module:
    """Randomise batch-norm statistics and scales of `model`."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                norm.bias.data.normal_(0, 0.3, generator=generator)
                norm.weight.data.uniform_(0.5, 2, generator=generator)
    return model.eval()


class Odd(nn.Module):
    """A convolution with two readers, one that runs twice, a norm that runs twice, and one foldable pair."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.after_read = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.run_twice, self.after_run = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.one, self.other, self.shared = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.plain, self.after_plain = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read_twice(x)
        x = self.after_read(x) + x
        x = self.after_run(self.run_twice(self.run_twice(x)))
        x = self.shared(self.other(self.shared(self.one(x))))
        return self.after_plain(self.plain(x)).flatten(1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resnet_with_folded_batch_norms_has_equal_outputs(layout: torch.memory_format) -> None:
    model = settled(cifar_resnet(depth=20)).to(memory_format=layout)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pairs = find_foldable_pairs(model, images[:1])
    assert len(pairs) == 19  # every batch-norm of it
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(images)
        with fold_batch_norms(model, pairs):
            assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
            torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(images), before)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_only_the_sole_reader_of_a_convolution_is_folded() -> None:
    model = settled(Odd())
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pairs = find_foldable_pairs(model, images)
    assert pairs == (ConvNormPair("plain", "after_plain"),)
    with torch.no_grad():
        before = model(images)
        with fold_batch_norms(model, pairs):
            torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)


def test_modes_are_restored_and_hooks_removed() -> None:
    model = settled(Odd())
    model.shared.train()
    find_foldable_pairs(model, torch.zeros(1, 3, 8, 8))
    assert [name for name, module in model.named_modules() if module.training] == ["shared"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_inside_restores_the_network() -> None:
    model = settled(Odd())
    with pytest.raises(RuntimeError), fold_batch_norms(model, [ConvNormPair("plain", "after_plain")]):
        raise RuntimeError
    assert isinstance(model.after_plain, nn.BatchNorm2d) and model.plain.bias is None
