"""The model, the pictures, and how one is trained on the other."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedlite.data import load

SIDE = 28


class Net(nn.Module):
    """Two convolutions and three linear layers, as in PyTorch's 60 minute blitz."""

    def __init__(self, batch_norm: bool = False) -> None:
        """Make the layers; `batch_norm` puts one after each convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.norm1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.norm2 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 10] of pictures [batch, 1, 28, 28]."""
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        x = self.pool(F.relu(self.norm2(self.conv2(x))))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


def pictures(name: str) -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the test pictures of a data set, at the network's size."""
    source = load(name)
    train, test = (
        TensorDataset(F.interpolate(torch.from_numpy(data.x), SIDE), torch.from_numpy(data.y))
        for data in (source.train, source.test)
    )
    return train, test


def load_data(
    name: str, partition_id: int, num_partitions: int, batch_size: int
) -> tuple[DataLoader, DataLoader]:
    """Return one client's pictures to train on, and the fifth of them that it holds out."""
    x, y = pictures(name)[0].tensors
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(42))
    mine = shuffled[partition_id::num_partitions]
    split = len(mine) // 5
    train, held = TensorDataset(x[mine[split:]], y[mine[split:]]), mine[:split]
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True),
        DataLoader(TensorDataset(x[held], y[held]), batch_size=256),
    )


def load_test_data(name: str) -> DataLoader:
    """Return the pictures that no client has."""
    return DataLoader(pictures(name)[1], batch_size=256)


def train(net: Net, loader: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train the network and return the mean loss of a batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    """Return the loss of a picture and the share of pictures that are named rightly."""
    net.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            logits = net(x)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += int((logits.argmax(1) == y).sum())
    count = len(loader.dataset)
    return loss / count, right / count
