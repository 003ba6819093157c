"""What is not trained stays as it is, or no update leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.parameters import Layout, frozen_digest
from fedlite.scenario import from_dict
from fedlite.training import Learner
from fedlite.training.frozen import Frozen

RECORDS = Dataset(
    np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
)
CODE = """
from torch import nn
def net(shape, classes):
    first, last = nn.Linear(3, 4), nn.Linear(4, classes)
    first.requires_grad_(False)
    return nn.Sequential(first, nn.Tanh(), last)
"""


@pytest.fixture
def learner(tmp_path: Any) -> Learner:
    """Return a site's learner of a network whose first layer is frozen."""
    (tmp_path / "own.py").write_text(CODE)
    scenario = from_dict({"model": {"name": f"{tmp_path}/own.py:net"}, "training": {"steps": 2}})
    return Learner(plans.of(scenario, (3,), 2), RECORDS)


def network(learner: Learner) -> Any:
    return learner.model.network


def share(learner: Learner, round_number: int = 1) -> None:
    learner.share(learner.plan.first, round_number, 0, None)


def test_honest_rounds_pass(learner: Learner) -> None:
    share(learner)
    share(learner, 2)


def test_a_frozen_weight_that_is_written_to_is_named(learner: Learner) -> None:
    share(learner)
    with torch.no_grad():
        network(learner)[0].bias.add_(1.0)
    with pytest.raises(ValueError, match=r"'0\.bias' is frozen, and was written to"):
        share(learner, 2)


def test_one_that_is_replaced_is_named(learner: Learner) -> None:
    share(learner)
    network(learner)[0].weight.data = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"'0\.weight' is frozen, and was written to"):
        share(learner, 2)


def test_one_that_is_changed_behind_torchs_back_is_found_in_the_first_round(
    learner: Learner,
) -> None:
    network(learner)[0].weight.data.numpy()[0, 0] += 1.0
    with pytest.raises(ValueError, match="what is frozen is not the federation's"):
        share(learner)


def test_an_adapter_on_another_device_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"'1\.weight' is on meta, and the model on cpu"):
        Frozen(model, torch.device("cpu"), frozen_digest(model))


@pytest.mark.parametrize("unit", ["none", "client"])
def test_that_nothing_moved_is_told_of_only_where_records_are_in_the_clear(
    tmp_path: Path, unit: str
) -> None:
    """Under privacy a refusal that hangs on a site's records would be no noised release."""
    (tmp_path / "own.py").write_text(CODE)
    tables = {
        "model": {"name": f"{tmp_path}/own.py:net"},
        "training": {"steps": 1, "learning_rate": 1e-30},
        "privacy": {"unit": unit},
        "federation": {"rounds": 1},
    }
    plan = plans.of(from_dict(tables), (3,), 2)
    asked = Learner(plan, RECORDS)
    if unit == "none":
        with pytest.raises(ValueError, match="no trained value moved"):
            asked.share(plan.first, 1, 0, plan.mechanism)
    else:
        assert asked.share(plan.first, 1, 0, plan.mechanism).delta.any()


def test_an_adapter_that_has_no_part_in_the_answer_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    guard = Frozen(model, torch.device("cpu"), frozen_digest(model))
    guard.check(np.zeros(6, np.float32), trained=False)
    guard = Frozen(model, torch.device("cpu"), frozen_digest(model))
    with pytest.raises(ValueError, match="no trained value moved"):
        guard.check(np.zeros(6, np.float32), trained=True)


TURNS = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = (nn.Linear(3, 3, bias=False) for _ in range(3))
        self.base.requires_grad_(False)
        nn.init.zeros_(self.b.weight)
    def forward(self, x):
        return self.base(x) + self.b(self.a(x))
    def standing(self):
        return ("a.weight",), ("b.weight",)
def net(shape, classes):
    return Net()
"""


def test_a_site_may_begin_in_a_turn_of_values_that_have_no_gradient_yet(tmp_path: Path) -> None:
    """As that of A, where no round before it has moved B, and nothing but adapters is trained."""
    (tmp_path / "own.py").write_text(TURNS)
    tables: dict[str, dict[str, Any]] = {
        "model": {"name": f"{tmp_path}/own.py:net"},
        "training": {"steps": 1},
    }
    late = Learner(plans.of(from_dict(tables), (3,), 3), RECORDS)
    assert not late.share(late.plan.first, 2, 0, None).delta.any()
    # Where B has moved, A does, and B always: then it is held against what it must do.
    after = late.plan.first + late.share(late.plan.first, 1, 0, None).delta
    assert late.share(after, 2, 0, None).delta.any()
    tables["training"] |= {"learning_rate": 1e-30}
    stuck = Learner(plans.of(from_dict(tables), (3,), 3), RECORDS)
    stuck.share(after, 2, 0, None)
    with pytest.raises(ValueError, match="no trained value moved"):
        stuck.share(after, 3, 0, None)


def test_a_site_with_another_frozen_part_has_another_layout(learner: Learner) -> None:
    """So the server takes it for a site of another federation before any round."""
    model = learner.plan.model()
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    assert Layout.of(model).digest != learner.plan.travelling.digest
    assert learner.plan.travelling.frozen and learner.plan.stored.frozen
