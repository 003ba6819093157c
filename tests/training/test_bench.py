from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.registry.names import name_of
from fedlite.scenario import from_dict
from fedlite.training import Learner
from fedlite.training.bench import Bench

CPU = torch.device("cpu")


class Remembers(nn.Module):
    """A network that keeps the last batch in a buffer, and answers by it."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.mean(dim=0))
        answers: Tensor = self.linear(x + self.seen)
        return answers


def records(seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20))


def test_sites_that_share_a_model_train_as_if_each_had_its_own() -> None:
    for tables in (
        {"model": {"name": "mlp"}},
        {"model": {"name": name_of(lambda shape, classes: Remembers())}},
    ):
        plan = plans.of(from_dict({**tables, "training": {"batch_size": 8}}), (4,), 3)
        bench = Bench(plan, CPU)
        together = [Learner(plan, records(site), bench) for site in (1, 2)]
        alone = [Learner(plan, records(site)) for site in (1, 2)]
        for number in (1, 2):
            for site in (0, 1):
                model = plan.initial + np.float32(0.01 * number)
                shared = together[site].delta(model, number, site, None)
                # A buffer of its own would still remember the site's last round.
                own = Learner(plan, records(site + 1)).delta(model, number, site, None)
                np.testing.assert_array_equal(shared, own)
        assert together[0].model is together[1].model and alone[0].model is not alone[1].model
