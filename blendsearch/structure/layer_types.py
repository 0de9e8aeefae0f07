"""Layers by their effect on channels."""

from torch import nn

from blendsearch.zoo.shortcut import PaddedShortcut

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAKERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
PER_CHANNEL_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)
PER_CHANNEL_TENSORS = ("weight", "bias", "running_mean", "running_var")
LEAVES = (*MAKERS, *PER_CHANNEL_LAYERS, PaddedShortcut)
