"""Networks of the experiments that the package does not bundle, for images of 32 x 32 pixels or less."""

from torch import Tensor, nn
from torchvision.models import MobileNetV2

VGG = {
    11: (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512),
    19: (64, 64, "pool", 128, 128, "pool", *(256,) * 4, "pool", *(512,) * 4, "pool", *(512,) * 4),
}
"""Widths of the convolutions (Simonyan and Zisserman 2014, table 1: A and E)."""

MOBILE = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage (Sandler et al. 2018, table 2), with two strides less."""


def make_vgg(depth: int = 19, width: float = 1.0, classes: int = 100) -> nn.Module:
    """Make a VGG with batch-norm and one linear layer; `width` scales the channels of every convolution."""
    return SmallVGG(depth, width, classes)


class SmallVGG(nn.Module):
    def __init__(self, depth: int, width: float, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for layer in VGG[depth]:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(2))
                continue
            out = round(layer * width)
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.pool(self.features(x)).flatten(1))
        return out


def make_mobilenet(width: float = 1.0, classes: int = 100) -> nn.Module:
    """Make a MobileNetV2 whose first convolution and second stage keep the resolution."""
    setting = [list(stage) for stage in MOBILE]
    model = MobileNetV2(num_classes=classes, width_mult=width, inverted_residual_setting=setting)
    model.features[0][0].stride = (1, 1)
    return model
