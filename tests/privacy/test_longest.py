"""No honest private update is longer than the bound, and the bound is not far off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.privacy import ClientMechanism, RecordMechanism, client, longest as module
from fedlite.privacy.dpsgd import noised_sum, poisson_sample
from fedlite.privacy.longest import LARGEST_SITE, longest
from fedlite.privacy.noise import Stream
from tests import tiny


class Aligned:
    """The worst records: every gradient is as long as may be, and all point one way."""

    def __init__(self, size: int) -> None:
        self.size, self.direction = size, np.full(size, 1 / math.sqrt(size))

    def norms(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        self.rows = rows
        return np.full(len(rows), 1e6)

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.direction * float(factors.sum()) * 1e6


# Size of the model, clip, noise, rate, expected batch, records of the site, cap, steps.
ODD = [
    (1, 1.0, 0.3, 1.0, 1, 1, 0, 1),
    (1, 0.1, 8.0, 0.01, 1, 90, 0, 50),
    (3, 5.0, 1.0, 0.5, 10, 2_000, 0, 3),
    (52, 0.5, 1.6, 1.0, 5, 16, 0, 4),
    (500, 0.05, 20.0, 0.2, 40, 200, 60, 7),
    (500, 1e-3, 0.3, 1.0, 1_000, 100_000, 0, 2),
    (3_000, 1.0, 100.0, 0.001, 2, 20_000, 0, 9),
    (20_640, 0.1, 8.0, 1.0, 287, 287, 287, 1),
    (20_640, 0.1, 8.0, 0.5, 287, 574, 400, 30),
]


def update(setting: tuple[Any, ...], rate: float, seed: int) -> tuple[float, float]:
    """Return the length of the worst honest update, by hand, and its bound."""
    size, clip, noise, q, batch, records, cap, steps = setting
    caps = {"max_batch": cap, "max_records": records} if cap else {}
    mechanism = RecordMechanism(clip, noise, q, 1000, batch, **caps)
    worst, total = Aligned(size), np.zeros(size)
    sampler = Stream.seeded("sampling", seed, size)
    stream = Stream.seeded("noise", seed, size)
    for _ in range(steps):
        rows = poisson_sample(records, q, sampler, cap)
        total -= rate / batch * noised_sum(worst, rows, mechanism, stream)
    bound = longest(mechanism, size, steps=steps, learning_rate=rate, updates=3000)
    return float(np.linalg.norm(total.astype(np.float32))), bound


@pytest.mark.parametrize("setting", ODD)
def test_the_worst_honest_update_is_within_the_bound(setting: tuple[Any, ...]) -> None:
    for seed in range(6):
        found, bound = update(setting, 0.5, seed)
        assert found <= bound


def test_where_noise_decides_the_bound_is_tight() -> None:
    """Two models of a thousand coordinates and more whose noise is far longer than gradients."""
    for setting in (ODD[4], ODD[7]):
        found, bound = update(setting, 0.5, 1)
        assert bound < 2 * found


def test_half_the_noise_would_touch_honest_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = module._noise
    monkeypatch.setattr(module, "_noise", lambda *given: 0.5 * noise(*given))
    found, bound = update(ODD[7], 0.5, 1)
    assert found > bound


def test_the_tails_are_those_of_the_laws() -> None:
    """Against the exact chi-square and binomial quantiles at the chance that each update gets."""
    from scipy import stats

    rare = math.log(2 * 3000 / 1e-9)
    for size in (1, 2, 50, 10_000):
        exact = math.sqrt(3 * stats.chi2.isf(math.exp(-rare), size))
        assert exact <= module._noise(1.0, size, 3, rare) <= 1.5 * exact
    for records, q in ((1, 0.5), (100, 0.01), (100_000, 0.3)):
        mechanism = RecordMechanism(1.0, 1.0, q, 9, 1, max_batch=records, max_records=records)
        exact = stats.binom.isf(math.exp(-rare), 3 * records, q)
        assert exact <= module._records(mechanism, 3, rare)
    open_end = RecordMechanism(1.0, 1.0, 0.1, 9, 7)
    assert module._records(open_end, 2, rare) >= 2 * 7 * LARGEST_SITE


def test_a_site_that_noises_its_whole_update() -> None:
    for size, noise in ((1, 0.3), (700, 3.0), (20_000, 0.5)):
        mechanism = ClientMechanism(clip=0.5, noise_multiplier=noise, steps=30, at="site")
        bound = longest(mechanism, size, steps=1, learning_rate=9.0, updates=150)
        for seed in range(5):
            clear = np.full(size, 1e9, np.float32)
            sent = client.privatize(clear, mechanism, Stream.seeded("client", seed, size))
            assert np.linalg.norm(sent.astype(np.float64)) <= bound
            assert bound < 2 * 0.5 + 3 * noise * math.sqrt(size) + 40 * noise


UPLINKS: list[dict[str, Any]] = [
    {"compressor": "dense"},
    {"compressor": "topk", "density": 0.1, "values": "sign", "error_feedback": True},
    {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False},
    {"compressor": "eden", "error_feedback": False},
    {"compressor": "randk", "density": 0.3, "error_feedback": False},
]


@pytest.mark.parametrize("up", UPLINKS, ids=lambda up: str(up["compressor"]))
@pytest.mark.parametrize("unit", ["record", "capped", "client"])
def test_what_sites_send_in_private_runs_is_within_the_plans_bound(
    tmp_path: Path, unit: str, up: dict[str, Any]
) -> None:
    """Sites of 16 and 9 records where 5 are expected, at a steep rate, through the whole path."""
    tables: dict[str, Any] = {"uplink": up, "training": {"learning_rate": 2.0, "steps": 3}}
    if unit == "client":
        scenario = tiny.client_plan(tmp_path, **tables)
    else:
        caps = {"max_batch": 16, "max_records": 16} if unit == "capped" else {}
        scenario = tiny.record_plan(tmp_path, privacy=caps, **tables)
    for site in range(2):
        played = tiny.play(scenario, tmp_path / "sites", rounds=8, site=site)
        bound = played.site.plan.update_norm
        lengths = np.linalg.norm(played.sent, axis=1)
        assert 0 < lengths.max() <= bound
        if unit != "record" and up["compressor"] == "dense":
            assert bound < 4 * lengths.max()
