"""Small network of the built-in example: 8 x 8 grey digits, trained in seconds on one core."""

from torch import Tensor, nn


def digits_net(classes: int = 10, width: int = 24) -> nn.Module:
    """Build five 3 x 3 convolutions, one of them inside a residual block, and one linear layer."""
    return DigitsNet(classes, width)


class DigitsNet(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = _make_unit(1, width, 1)
        self.inner = _make_unit(width, width, 1)
        self.outer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()
        self.down = _make_unit(width, 2 * width, 2)
        self.top = _make_unit(2 * width, 2 * width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(x + self.outer(self.inner(x)))
        out: Tensor = self.classifier(self.pool(self.top(self.down(x))).flatten(1))
        return out


def _make_unit(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
