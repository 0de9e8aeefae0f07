"""Prune a user-defined network in Python: train a small one on digits, halve its MACs, and take the best network."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

import blendsearch as bs

torch.manual_seed(0)
found = load_digits()
images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16  # as the network takes them
data = TensorDataset(images, torch.tensor(found.target))
train, val, test = random_split(data, [0.6, 0.2, 0.2])

model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    *(nn.Flatten(), nn.Linear(32, 10)),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for _ in range(12):
    for x, y in torch.utils.data.DataLoader(train, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

run = bs.search(
    model, train=train, val=val, test=test, budget=bs.macs(0.5) & bs.params(0.6), evaluations=60,
    criteria=["l1", "fpgm", "bn_gamma", "apoz", "taylor_gate"],
)  # fmt: skip
print(run.front())
print(run.best())
small = run.best().module()  # an ordinary nn.Module, with fewer channels
print(small)
