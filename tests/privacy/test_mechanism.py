"""The mechanisms: their numbers, and what they refuse.

Covers fedlite/privacy/checks.py, fedlite/privacy/event.py.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from fedlite.privacy import ClientMechanism, Event, Mechanism, RecordMechanism, mechanism

GOOD = RecordMechanism(
    clip=0.5, noise_multiplier=4.0, sampling_rate=0.1, steps=10, expected_batch=32
)
AT_SITE = ClientMechanism(clip=0.5, noise_multiplier=4.0, steps=10, at="site")


def test_sensitivity_is_the_clip_and_noise_is_in_its_units() -> None:
    assert GOOD.sensitivity == 0.5
    assert GOOD.noise_std == 2.0
    assert replace(GOOD, expected_batch=1000).noise_std == 2.0
    assert GOOD.event == Event(4.0, 0.1)
    assert GOOD.unit == "record" and "record" in GOOD.adjacency


def test_a_site_that_may_send_anything_else_differs_by_twice_the_clip() -> None:
    at_server = replace(AT_SITE, at="server")
    assert (AT_SITE.sensitivity, AT_SITE.noise_std) == (1.0, 4.0)
    assert (at_server.sensitivity, at_server.noise_std) == (0.5, 2.0)
    # The same event: what replacing changes is in the noise, not in the accountants' adjacency.
    assert AT_SITE.event == at_server.event == Event(4.0, 1.0)
    assert AT_SITE.adjacency.startswith("replace") and at_server.adjacency.endswith(
        "by zero; who takes part is public"
    )
    assert {m.unit for m in (AT_SITE, at_server)} == {"client"}
    assert AT_SITE.delta_slack(3.0) == 0.0


@pytest.mark.parametrize("mechanism", [GOOD, AT_SITE])
def test_it_cannot_be_changed_after_it_was_accounted(mechanism: Mechanism) -> None:
    with pytest.raises(FrozenInstanceError):
        mechanism.noise_multiplier = 0.1  # type: ignore[misc]


@pytest.mark.parametrize("mechanism", [GOOD, AT_SITE])
def test_there_is_no_free_sensitivity(mechanism: Mechanism) -> None:
    with pytest.raises(TypeError):
        type(mechanism)(**{**vars(mechanism), "sensitivity": 0.1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("clip", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("noise_multiplier", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("sampling_rate", v) for v in (0.0, -0.1, 1.1, math.nan)],
        *[("steps", v) for v in (0, -1, 1.5, True)],
        *[("expected_batch", v) for v in (0, -1, 2.5)],
        *[("max_batch", v) for v in (-1, 2.5, math.nan)],
        *[("max_records", v) for v in (-1, 2.5)],
    ],
)
def test_a_number_out_of_its_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key}: must be .* got {value!r}"):
        replace(GOOD, **{key: value})
    if hasattr(AT_SITE, key) and key != "sampling_rate":
        with pytest.raises(ValueError, match=f"{key}: must be .* got {value!r}"):
            replace(AT_SITE, **{key: value})


def test_where_a_client_is_noised_is_one_of_two_places() -> None:
    with pytest.raises(ValueError, match="at: must be 'site' or 'server', got 'cloud'"):
        replace(AT_SITE, at="cloud")  # type: ignore[arg-type]


def test_a_cap_needs_to_know_how_many_records_there_may_be() -> None:
    with pytest.raises(ValueError, match="max_records: must be at least 1 where max_batch"):
        replace(GOOD, max_batch=5)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_an_event_refuses_noise_that_accountants_would_misread(bad: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        Event(bad, 1.0)
    if not bad > 1:
        with pytest.raises(ValueError, match="sampling_rate"):
            Event(1.0, bad)


def binomial_tail(n: int, q: float, cap: int) -> float:
    """P[Binomial(n, q) > cap], summed."""
    return math.fsum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(cap + 1, n + 1))


def test_the_slack_of_a_cap_is_the_chance_of_any_larger_sample() -> None:
    capped = replace(GOOD, max_batch=9, max_records=40)
    assert capped.delta_slack(2.0) == pytest.approx(
        (1 + math.exp(2.0)) * 10 * binomial_tail(40, 0.1, 9), rel=1e-9
    )
    assert capped.delta_slack(2.0) < capped.delta_slack(2.1)
    assert replace(capped, max_batch=10).delta_slack(2.0) < capped.delta_slack(2.0)
    assert replace(capped, max_batch=40).delta_slack(1e9) == 0.0
    assert GOOD.delta_slack(2.0) == 0.0
    # Without sampling every sample is as large as the data set: the cap is always met.
    whole = replace(capped, sampling_rate=1.0)
    assert whole.delta_slack(0.0) == pytest.approx(2 * 10)
    assert whole.delta_slack(1e9) > 1e300


@pytest.mark.parametrize("epsilon", [math.nan, math.inf, -1.0])
def test_a_slack_is_asked_for_at_a_real_epsilon(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon: must be finite"):
        replace(GOOD, max_batch=9, max_records=40).delta_slack(epsilon)


def test_a_cap_that_costs_too_much_names_the_smallest_that_does_not() -> None:
    with pytest.raises(ValueError, match=r"max_batch: .* 1% of delta .* got 9, .* set at least 19"):
        mechanism.check_cap(2.0, 1e-5, 0.1, 10, 9, 40)
    for cap, fits in ((19, True), (18, False)):
        slack = (1 + math.exp(2.0)) * 10 * binomial_tail(40, 0.1, cap)
        assert (slack <= 1e-7) is fits
    assert mechanism.check_cap(2.0, 1e-5, 0.1, 10, 19, 40) == pytest.approx(
        (1 + math.exp(2.0)) * 10 * binomial_tail(40, 0.1, 19), rel=1e-6
    )


def test_importing_privacy_is_cheap() -> None:
    heavy = "('torch', 'dp_accounting', 'scipy', 'numpy', 'opacus', 'flwr')"
    code = f"import sys, fedlite.privacy; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
