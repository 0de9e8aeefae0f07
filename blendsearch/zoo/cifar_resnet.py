"""ResNets for 32 x 32 images (He et al. 2015, section 4.2)."""

from torch import Tensor, nn

from blendsearch.errors import ModelError
from blendsearch.zoo.shortcut import PaddedShortcut


def cifar_resnet(depth: int = 20, classes: int = 10, width: int = 16) -> nn.Module:
    """Build a CIFAR ResNet of 6n + 2 layers with option-A shortcuts; 20, 32, 44, 56 or 110 in the paper.

    Module names follow widely shared checkpoints: ``conv1``, ``bn1``, ``layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}``,
    ``linear``.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ModelError(f"cifar_resnet has no depth {depth}: expected 6n + 2, such as 20, 32, 44, 56 or 110")
    return CifarResNet((depth - 2) // 6, classes, width)


class CifarResNet(nn.Module):
    def __init__(self, blocks: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _make_stage(width, width, blocks, stride=1)
        self.layer2 = _make_stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _make_stage(2 * width, 4 * width, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(self.pool(x).flatten(1))
        return out


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and in_channels == channels
        self.shortcut: nn.Module = nn.Identity() if same else PaddedShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        added: Tensor = self.relu(out + self.shortcut(x))
        return added


def _make_stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
