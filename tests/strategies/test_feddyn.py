"""The server's half of FedDyn against h as the paper has it."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies import ServerState, make

N, SITES = 6, 5


@pytest.mark.parametrize("alpha", [0.01, 0.1, 3.0])
def test_the_drift_is_minus_h_over_alpha_whatever_alpha_is(alpha: float) -> None:
    """Acar et al. 2021, algorithm 1; the rounds have unlike numbers of sites."""
    rng = np.random.default_rng(0)
    rule = make(Federation(strategy="feddyn", sites=SITES))
    state = ServerState.initial(rng.normal(size=N).astype(np.float32))
    theta, h = state.model.astype(np.float64), np.zeros(N)
    for number, came in enumerate((5, 2, 1, 4), 1):
        deltas = rng.normal(size=(came, N)).astype(np.float32)
        rule.start(N)
        for delta in deltas:
            rule.add(Decoded(N, None, delta), 0)
        state = rule.finish(state, number)
        h = h - alpha / SITES * deltas.astype(np.float64).sum(axis=0)
        theta = theta + deltas.mean(axis=0, dtype=np.float64) - h / alpha
        np.testing.assert_allclose(state.model, theta, atol=1e-5)
        np.testing.assert_allclose(state.arrays["drift"], -h / alpha, atol=1e-5)
