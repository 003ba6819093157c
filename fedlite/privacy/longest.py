"""How long an honest private update can be: a bound from public numbers alone.

A private site's update is noise of a known deviation and a sum of clipped gradients. Whatever its
records are, its length has a public bound; who sends more has not followed the plan. The derivation
is in docs/noise.md, "How long an update can be".
"""

from __future__ import annotations

import math

from fedlite.privacy.grid import fine_cell, grid
from fedlite.privacy.mechanism import LocalMechanism, RecordMechanism

CHANCE = 1e-9
"""The chance that any honest update of a run is longer, at most."""

LARGEST_SITE = 100
"""Without `max_records`, a site is taken to have at most as many times the expected batch."""

# What float32 adds to a model and its difference.
_ROUNDING = 1.01


def longest(
    mechanism: LocalMechanism, size: int, *, steps: int, learning_rate: float, updates: int
) -> float:
    """Return the L2 norm that no honest update exceeds but with the chance `CHANCE` in a run.

    mechanism: that adds its noise at the site. size: of the model. steps: private steps of one
    update. learning_rate: the largest of any round. updates: of all sites and rounds together.
    Without `max_records` it is for sites of at most `LARGEST_SITE` times the expected batch.

    >>> mechanism = RecordMechanism(clip=0.1, noise_multiplier=8.0, sampling_rate=1.0, steps=30,
    ...                             expected_batch=287, max_batch=300, max_records=300)
    >>> round(longest(mechanism, 20_640, steps=1, learning_rate=1.0, updates=150), 1)
    0.5
    """
    # Each update may be too long by its noise and by its samples.
    rare = math.log(2 * updates / CHANCE)
    if not isinstance(mechanism, RecordMechanism):
        return _ROUNDING * (mechanism.clip + _noise(mechanism.noise_std, size, 1, rare))
    gradients = mechanism.clip * _records(mechanism, steps, rare)
    whole = gradients + _noise(mechanism.noise_std, size, steps, rare)
    return _ROUNDING * learning_rate / mechanism.expected_batch * whole


def _noise(std: float, size: int, steps: int, rare: float) -> float:
    """Return what the noise of all steps together exceeds in length with chance e^-rare at most."""
    tail = size + 2.0 * math.sqrt(size * rare) + 2.0 * rare
    cells = 0.5 * (grid(std) + fine_cell(std)) * math.sqrt(size)
    return std * math.sqrt(steps * tail) + steps * cells


def _records(mechanism: RecordMechanism, steps: int, rare: float) -> float:
    """Return how many records all samples together exceed with chance e^-rare at most."""
    rate, batch = mechanism.sampling_rate, float(LARGEST_SITE) * mechanism.expected_batch
    if mechanism.max_records:
        batch = rate * mechanism.max_records
    mean = steps * batch
    found = mean if rate == 1.0 else mean + math.sqrt(2.0 * mean * rare) + rare / 3.0
    return min(found, steps * mechanism.max_batch) if mechanism.max_batch else found
