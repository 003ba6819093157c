"""What the tests of the attacks share: small scenarios made ready, and the old noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from fedlite.attacks.subject import Subject, prepare
from fedlite.scenario import Scenario, from_dict
from fedlite.training.share import settle_process
from simulations.run import check

SMALL = {
    "federation": {"rounds": 6, "sites": 3, "quorum": 2},
    "data": {"name": "digits", "partition": "iid", "test_fraction": 0.4},
    "model": {"name": "mlp"},
    "training": {"steps": 2, "learning_rate": 0.5},
    "uplink": {"density": 0.1},
    "privacy": {"unit": "record", "epsilon": 4.0, "clip": 0.5, "sampling_rate": 0.3},
}


def small(**privacy: object) -> Scenario:
    """Return a federation whose model has 3,796 values, made ready to run."""
    tables = {name: dict(table) for name, table in SMALL.items()}
    tables["privacy"] |= privacy
    if privacy.get("noise_at") == "server":
        tables["uplink"] = {"compressor": "eden", "error_feedback": False}
    if privacy.get("unit") == "client":
        tables["privacy"]["sampling_rate"] = 1.0
    return check(from_dict(tables))


@lru_cache(maxsize=8)
def prepared(privacy: tuple[tuple[str, object], ...]) -> Subject:
    settle_process()
    return prepare(small(**dict(privacy)), 0)


class FloatNoise:
    """The noise as it was: float32 normals from torch, keyed with all 19,968 bits of its state."""

    def __init__(self) -> None:
        self.state = np.random.default_rng().integers(0, 2**32, 624, dtype=np.uint32)
        self.generator = torch.Generator()
        state = self.generator.get_state()
        words = state[24 : 24 + 8 * 624].view(torch.int64)
        words.copy_(torch.from_numpy(self.state.astype(np.int64)))
        self.generator.set_state(state)

    def release(self, total: np.ndarray, noise_std: float) -> np.ndarray:
        """Return the sum with noise, all in float32."""
        noise = torch.normal(0.0, noise_std, total.shape, generator=self.generator)
        return (torch.from_numpy(total.astype(np.float32)) + noise).numpy().astype(np.float64)
