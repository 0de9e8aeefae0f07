"""Small network of the example `clutter`: 16 x 16 colour images, trained in half a minute on one core."""

from collections.abc import Sequence

from torch import nn


def clutter_net(classes: int = 10, widths: Sequence[int] = (16, 16, 32, 32, 128, 128)) -> nn.Module:
    """Build 3 x 3 convolutions of `widths` channels, two at each of three resolutions, and one linear layer.

    As in VGG (Simonyan and Zisserman 2014), the last layers are much wider than the first.
    """
    layers: list[nn.Module] = []
    channels = 3
    for place, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        if place % 2 and place + 1 < len(widths):
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
