"""What cannot be attacked is refused, with what is missing."""

from __future__ import annotations

import pytest

from fedlite.attacks.subject import prepare
from fedlite.scenario import ScenarioError, from_dict


def test_a_sum_under_masks_is_not_attacked_as_if_a_site_released_it() -> None:
    tables = {
        "federation": {"sites": 5, "quorum": 4},
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "privacy": {"unit": "record", "noise_at": "shared"},
    }
    with pytest.raises(ScenarioError, match=r"privacy\.noise_at: .*what is missing: attacks on a"):
        prepare(from_dict(tables), 0)
