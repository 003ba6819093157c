"""Any network as a model with one branch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedlite.models import Single
from fedlite.models.checks import check
from fedlite.parameters import Layout, load_vector, to_vector
from fedlite.tasks import TASKS, make


class Net(nn.Module):
    """A network as anybody would write it."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4 * 36, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.first(x))).flatten(1))


def single(network: nn.Module | None = None) -> Single:
    return Single(network or Net(), shape=(1, 8, 8), classes=3)


def test_it_has_the_network_s_names_and_answers() -> None:
    network = Net()
    model = single(network)
    assert Layout.of(model) == Layout.of(network)
    assert [n for n, _ in model.named_modules()] == [n for n, _ in network.named_modules()]
    x = torch.rand(5, 1, 8, 8)
    (deep,) = model(model.prepare(x))
    assert torch.equal(deep, network(x)) and model.branches == ("deep",)
    vector = to_vector(model)
    load_vector(model, vector * 2)
    assert torch.equal(torch.from_numpy(to_vector(network)), torch.from_numpy(vector) * 2)
    other = copy.deepcopy(model).eval()
    assert not other.network.training and network.training


def test_its_costs_are_those_by_hand() -> None:
    size = 4 * 9 + 4 + 2 * 4 + 145 * 3
    assert single().costs() == {"network": {"parameters": size, "macs": 4 * 9 * 36 + 144 * 3}}


def test_costs_are_counted_of_a_network_that_cannot_train_on_one_record() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    network[1].momentum = 1.0
    network[0].eval()
    model = Single(network, shape=(4,), classes=3)
    assert model.costs() == {"network": {"parameters": 21, "macs": 12}}
    assert network[1].running_mean.tolist() == [0, 0, 0]
    assert network.training and network[1].training and not network[0].training


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch", [0, 20])
def test_it_can_be_trained_for_every_task_and_record_by_record(task: str, batch: int) -> None:
    check(single(), make(task), batch=batch)


def test_a_network_with_two_outputs_is_told_how_to_have_two_branches() -> None:
    class Two(Net):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            return super().forward(x), super().forward(x)

    with pytest.raises(ValueError, match=r"must return outputs .* got tuple; two branches are"):
        check(single(Two()), make("classification"))
    with pytest.raises(ValueError, match=r"\[2, 3\] for 2 records, got \[2, 7\]"):
        check(single(Net(width=7)), make("classification"))
