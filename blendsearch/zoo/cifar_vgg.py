"""VGG-16 for 32 x 32 images: the convolutions of Simonyan and Zisserman 2014, followed by one linear layer."""

from torch import Tensor, nn

LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


def cifar_vgg16_bn(classes: int = 10) -> nn.Module:
    """Build the VGG-16 with batch-norm that pruning papers use on CIFAR: 13 convolutions, pooling, one linear layer."""
    return CifarVGG(classes)


class CifarVGG(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for layer in LAYERS:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(2))
            else:
                convolution = nn.Conv2d(channels, layer, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(layer), nn.ReLU(inplace=True)]
                channels = layer
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return out
