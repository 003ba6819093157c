from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.objectives import FedProx, Scaffold
from fedlite.privacy import RecordMechanism
from fedlite.scenario import Training, from_dict
from fedlite.tasks import make
from fedlite.training import Learner, local
from fedlite.training.objective import Decay, Objective, class_offsets

TASK = make("classification")


class Point(nn.Module):
    """A model that is one number w, whatever the record."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, self.w.expand(len(rows))


def bowl(curvature: float, lowest: float) -> Objective:
    """`curvature / 2 (w - lowest)^2`, of which everything is known in closed form."""
    return Objective(lambda outputs, _: curvature / 2 * (outputs[1] - lowest) ** 2)


def descend(
    objective: Objective, start: float, steps: int, rate: float, **more: tuple[Mapping, ...]
) -> tuple[float, tuple[Mapping[str, Tensor], ...]]:
    model, rows = Point(start), torch.zeros(4)
    states = local.train(
        model,
        local.flatten(model),
        rows,
        rows.long(),
        objective,
        Training(steps=steps, batch_size=4),
        learning_rate=rate,
        rng=np.random.default_rng(0),
        **more,
    )
    return float(model.w.detach()), states


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_a_proximal_round_is_fedprox_in_closed_form(mu: float, steps: int) -> None:
    """On a parabola the distance to (h a + mu w_0) / (h + mu) shrinks by 1 - rate (h + mu)."""
    h, lowest, start, rate = 2.0, 3.0, -1.0, 0.1
    objective = replace(bowl(h, lowest), terms=(FedProx(mu),))
    end, _ = descend(objective, start, steps, rate)
    rest = (h * lowest + mu * start) / (h + mu)
    assert end == pytest.approx(rest + (1 - rate * (h + mu)) ** steps * (start - rest), abs=1e-4)


def test_a_decay_pulls_towards_nothing() -> None:
    end, _ = descend(replace(bowl(2.0, 3.0), terms=(Decay(1.0),)), -1.0, 300, 0.1)
    assert end == pytest.approx(2.0 * 3.0 / 3.0, abs=1e-4)


def test_terms_add_up_and_are_not_cut_with_the_gradient_of_the_records() -> None:
    model, rows = Point(1.0), torch.zeros(4)
    objective = replace(bowl(100.0, 3.0), terms=(Decay(1.0), Decay(0.5), FedProx(7.0)))
    training = Training(steps=1, batch_size=4, clip_norm=2.0)
    flat, rng = local.flatten(model), np.random.default_rng(0)
    local.train(model, flat, rows, rows.long(), objective, training, learning_rate=0.1, rng=rng)
    assert float(model.w.detach()) == pytest.approx(1.0 - 0.1 * (-2.0 + 1.5))


@pytest.mark.long
def test_control_variates_lead_unlike_sites_to_their_joint_optimum() -> None:
    """Two sites, unlike in curvature: averaged alone they miss the joint optimum, corrected not."""
    sites = [bowl(1.0, 0.0), bowl(4.0, 10.0)]
    joint = (1.0 * 0.0 + 4.0 * 10.0) / 5.0
    model = plain = 0.0
    common, own = torch.zeros(1), [torch.zeros(1), torch.zeros(1)]
    for _ in range(100):
        plain = sum(descend(site, plain, 10, 0.1)[0] for site in sites) / 2
        ends = []
        for number, site in enumerate(sites):
            corrected = replace(site, terms=(Scaffold(),))
            kept = ({"control": common, "own.control": own[number]},)
            end, (changed,) = descend(corrected, model, 10, 0.1, kept=kept)
            own[number] = own[number] + changed["control"]
            ends.append(end)
        model, common = sum(ends) / 2, sum(own) / 2
    assert abs(plain - joint) > 1.0
    assert model == pytest.approx(joint, abs=1e-3)


def test_a_scenarios_terms_are_those_it_asks_for() -> None:
    assert Objective.of(TASK, Training()).terms == ()
    decayed = Objective.of(TASK, Training(weight_decay=0.1))
    assert decayed.terms == (Decay(0.1),) and decayed.per_record
    replace(decayed, terms=(*decayed.terms, FedProx(0.2))).check_private()


class FromRecords(Decay):
    from_records = True


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        (Objective.of(TASK, Training(), torch.zeros(10)), r"objective.loss: .*logit_adjustment"),
        (
            replace(Objective.of(TASK, Training()), terms=(Decay(1.0), FromRecords(1.0))),
            "FromRecords",
        ),
    ],
)
def test_what_records_decide_is_refused_under_record_privacy(
    objective: Objective, why: str
) -> None:
    rng = np.random.default_rng(0)
    records = Dataset(rng.random((24, 1, 8, 8), np.float32), rng.integers(0, 10, 24))
    mechanism = RecordMechanism(0.5, 2.0, 1.0, 3, 10)
    plan = {
        "model": {"name": "mlp"},
        "training": {"steps": 1, "device": "cpu"},
        "privacy": {"unit": "record", "expected_batch": 10},
    }
    learner = Learner(plans.of(from_dict(plan), (1, 8, 8), 10), records)
    learner.delta(learner.initial, 1, 7, mechanism)
    learner.objective = objective
    with pytest.raises(ValueError, match=why):
        learner.delta(learner.initial, 1, 7, mechanism)


def test_class_offsets_are_the_logs_of_smoothed_shares() -> None:
    offsets = class_offsets(torch.tensor([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(offsets.numpy(), np.log(np.array([4, 1, 2]) / 7), rtol=1e-6)
