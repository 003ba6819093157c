from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from fedlite.privacy import RecordMechanism

GOOD = RecordMechanism(
    clip=0.5, noise_multiplier=4.0, sampling_rate=0.1, steps=10, expected_batch=32
)


def test_sensitivity_is_the_clip_and_noise_is_in_its_units() -> None:
    assert GOOD.sensitivity == 0.5
    assert GOOD.noise_std == 2.0
    assert replace(GOOD, expected_batch=1000).noise_std == 2.0


def test_it_cannot_be_changed_after_it_was_accounted() -> None:
    with pytest.raises(FrozenInstanceError):
        GOOD.noise_multiplier = 0.1  # type: ignore[misc]


def test_there_is_no_free_sensitivity() -> None:
    with pytest.raises(TypeError):
        RecordMechanism(**{**vars(GOOD), "sensitivity": 0.1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("clip", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("noise_multiplier", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("sampling_rate", v) for v in (0.0, -0.1, 1.1, math.nan)],
        *[("steps", v) for v in (0, -1, 1.5)],
        *[("expected_batch", v) for v in (0, -1, 2.5)],
    ],
)
def test_a_number_out_of_its_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key}: must be .* got {value!r}"):
        replace(GOOD, **{key: value})
