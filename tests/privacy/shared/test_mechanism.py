"""Shared noise on whole updates: the law of a trusted server's sum, and what is refused.

Covers fedlite/privacy/shared/mechanism.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from fedlite.privacy import ClientMechanism, SharedMechanism, accounting, client
from fedlite.privacy.noise import Stream
from fedlite.privacy.shared import summed
from tests.privacy.shared.planned import MECHANISM

WHOLE = replace(MECHANISM, unit="client", expected_batch=0)
SERVER = ClientMechanism(WHOLE.clip, WHOLE.noise_multiplier, WHOLE.steps, "server")


def released(
    updates: np.ndarray, noise: Stream, mechanism: SharedMechanism, noisy: int
) -> np.ndarray:
    """Return the mean that the server reads when the noise of `noisy` sites is not known."""
    units = np.zeros(updates.shape[1], np.int64)
    for at, update in enumerate(updates):
        units += summed.whole_contribution(update, mechanism, noise)
        if at >= noisy:
            # Who colludes takes its own off again; how it was rounded is known as well.
            units -= summed.noised_units(np.zeros(update.size, np.int64), noise)
    total = summed.values(summed.residues(units, mechanism.bits), mechanism)
    return total / mechanism.divisor


def test_a_sum_has_the_law_of_a_trusted_servers() -> None:
    """With as many sites as are sure to be honest: same mean, noise and shape, by two paths."""
    mechanism = replace(WHOLE, sites=3, least=3, honest=3)
    rng, noise = np.random.default_rng(1), Stream.seeded(4)
    updates = rng.standard_normal((3, 592)) * np.array([[0.01], [1e-4], [5.0]])
    total = sum(
        client.clip(u.astype(np.float32), SERVER.clip_bound(592)).astype(np.float64)
        for u in updates
    )
    seen = np.stack([released(updates, noise, mechanism, 3) for _ in range(60)])
    server = np.stack([client.noised_mean(total, 3, SERVER, noise) for _ in range(60)])
    std = SERVER.noise_std / 3
    for found, more in ((seen, 49 / 48), (server, 1.0)):
        left = (found - total / 3) / std
        assert left.mean() == pytest.approx(0.0, abs=5 / np.sqrt(left.size))
        assert left.var() == pytest.approx(more, abs=5 * np.sqrt(2 / left.size))
    # A uniform of one unit smears the lattice out: what is left is normal, a twelfth wider twice.
    smeared = seen - total / 3 + rng.uniform(-0.5, 0.5, seen.shape) * mechanism.unit_width / 3
    assert kstest(smeared.ravel() / (std * np.sqrt(25 / 24)), "norm").pvalue > 1e-4


def test_it_costs_what_a_trusted_servers_noise_does() -> None:
    shared = accounting.running(WHOLE, WHOLE.steps, 1e-5)
    server = accounting.running(SERVER, SERVER.steps, 0.99e-5)
    assert shared == pytest.approx(server)
    assert WHOLE.sensitivity == SERVER.sensitivity == WHOLE.clip
    assert WHOLE.noise_std == SERVER.noise_std
    assert WHOLE.own_std * np.sqrt(WHOLE.carried) == pytest.approx(SERVER.noise_std)


@pytest.mark.parametrize("hostile", [1e-30, 1.0, 1e30, np.inf, np.nan])
def test_whatever_a_site_trains_moves_a_sum_by_the_clip_at_most(hostile: float) -> None:
    """Against zeros in its place, by the exact cells that are noised."""
    update = np.full(592, hostile)
    update[7] *= -3.0
    clipped = summed.clipped_update(update, WHOLE)
    cells = summed.clean_cells(clipped, WHOLE).astype(np.float64)
    moved = np.linalg.norm(cells) * WHOLE.unit_width / summed.UNIT_CELLS
    assert moved <= WHOLE.clip
    assert (hostile in (1.0, 1e30)) == (moved > 0.99 * WHOLE.clip)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"expected_batch": 9}, "a client has no batches"),
        ({"sampling_rate": 0.5}, "no sampling amplifies it"),
        ({"unit": "person"}, "unit: must be 'record' or 'client'"),
        ({"unit": "record"}, "expected_batch"),
        ({"reach": float("inf")}, "reach: must be finite"),
    ],
)
def test_what_is_not_proven_is_no_mechanism(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(WHOLE, **changed)


def test_a_reach_of_its_own_leaves_room_for_larger_sums() -> None:
    wide = replace(WHOLE, reach=300.0)
    assert wide.most_cells * wide.unit_width / summed.UNIT_CELLS == pytest.approx(30.0, rel=1e-4)
    total = np.linspace(-30.0, 30.0, 592)
    found = [summed.rounded(total, wide, Stream.seeded(at)) for at in range(5)]
    read = summed.values(summed.residues(np.sum(found, axis=0), wide.bits), wide)
    np.testing.assert_allclose(read, 5 * total, atol=7 * np.sqrt(5) * wide.own_std)
