"""A plan of shared noise, about that of `quickstart-distributed`, for the tests of it."""

from __future__ import annotations

from fedlite.privacy import SharedMechanism

MECHANISM = SharedMechanism(
    clip=0.1,
    noise_multiplier=13.2,
    sampling_rate=1.0,
    steps=90,
    expected_batch=259,
    coordinates=592,
    sites=5,
    least=4,
    honest=4,
)
# Names and keys of its members; the first is the site of `tests.privacy.budget.holder`.
GROUP = {name: f"{at:064x}" for at, name in enumerate(("north", "b", "c", "d", "e"))}
