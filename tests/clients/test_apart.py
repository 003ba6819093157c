"""What one simulated site has trained on is not in another's update, whatever its model keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients import opening
from fedlite.parameters import Vector
from fedlite.scenario import from_dict

# It takes its scale from the first records that it sees, and keeps it where no state dict looks.
OWN = """
from torch import nn


class Scaled(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.scale, self.last = None, nn.Linear(width, classes)

    def forward(self, x):
        x = x.flatten(1)
        if self.scale is None:
            self.scale = 1 / float(x.detach().std())
        return self.last(x * self.scale)


def make(shape, classes):
    return Scaled(shape[0] * shape[1] * shape[2], classes)
"""


@pytest.mark.parametrize("own", [True, False])
def test_a_site_trains_as_if_no_other_had_before_it(tmp_path: Path, own: bool) -> None:
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path}/own.py:make" if own else "cnn"
    scenario = from_dict(
        {
            "federation": {"sites": 2, "rounds": 1},
            "data": {"name": "digits", "partition": "dirichlet", "alpha": 0.1},
            "model": {"name": name},
        }
    )

    def second(first: bool) -> Vector:
        sites = [opening.open_simulated_site(scenario, at, tmp_path / str(first)) for at in (0, 1)]
        if first:
            sites[0].learner.share(sites[0].plan.first, 1, sites[0].number, None)
        return sites[1].learner.share(sites[1].plan.first, 1, sites[1].number, None).delta

    np.testing.assert_array_equal(second(True), second(False))
