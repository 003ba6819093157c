"""Virtual time in words, and what is told where runs do not come to their target."""

from __future__ import annotations

import pytest

from fedlite.reporting import virtual
from fedlite.reporting.record import RoundRecord


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.6, "0.6 s"),
        (119.9, "120 s"),
        (120.0, "2 min"),
        (7199.0, "120 min"),
        (7200.0, "2 hours"),
        (172_800.0, "2 days"),
        (None, "never"),
    ],
)
def test_a_duration_is_put_in_the_unit_that_people_use(seconds: float | None, told: str) -> None:
    assert virtual.minutes(seconds) == told


def test_the_target_is_reached_at_the_end_of_the_first_round_that_had_it() -> None:
    scores = [0.2, 0.6, 0.4, 0.7]
    rows = [
        RoundRecord(n, 2, accuracy={"deep": s}, simulated_seconds=n, late=["a"] * (n % 2))
        for n, s in enumerate(scores, start=1)
    ]
    found = virtual.network_of(rows, profile="own", target=0.6)
    assert (found["seconds"], found["seconds_to_target"], found["late"]) == (10.0, 3.0, 2)
    assert virtual.network_of(rows, profile="own", target=0.9)["seconds_to_target"] is None
    # A round that was not scored tells nothing, and takes its time.
    rows[1] = RoundRecord(2, 2, simulated_seconds=2.0)
    assert virtual.network_of(rows, profile="own", target=0.6)["seconds_to_target"] == 10.0
    stale = [RoundRecord(1, 1, staleness=4.0), RoundRecord(2, 3, staleness=0.0), RoundRecord(3, 0)]
    assert virtual.network_of(stale, profile="4g", target=0.0)["staleness"] == 1.0


def test_what_was_waiting_for_sites_that_did_not_answer_is_told() -> None:
    rows = [
        RoundRecord(1, 2, simulated_seconds=1.0),
        RoundRecord(2, 1, simulated_seconds=600.0, missing=["a"]),
        # Enough had answered: nobody waited for the missing one, but for sites that slept.
        RoundRecord(3, 2, simulated_seconds=900.0, missing=["a"]),
        RoundRecord(4, 1, simulated_seconds=600.0, dropped={"a": "bad-update"}),
    ]
    found = virtual.network_of(rows, profile="4g", target=0.0, deadline=600.0, needed=2)
    assert (found["waited"], found["seconds_waited"]) == (1, 600.0)
    assert virtual.told({"network": found})[1] == (
        "Of that, 10 min were 1 round that lasted until federation.deadline_seconds, as sites did "
        "not answer."
    )
    assert virtual.network_of(rows, profile="4g", target=0.0)["waited"] == 0


def test_a_mean_over_those_that_came_there_says_so() -> None:
    def run(target: float, after: float | None) -> dict[str, object]:
        return {"network": {"target": target, "seconds_to_target": after}}

    assert virtual.notes([run(0.9, 3.0), {}, {"network": {"target": None}}]) == []
    (line,) = virtual.notes([run(0.9, 3.0), run(0.9, None)])
    assert line.startswith("1 of 2 runs did not come to their target")
    assert virtual.notes([run(0.9, None)] * 5) == [
        "No run came to its target: there is no time to it."
    ]
    assert "the same network.target" in virtual.notes([run(0.9, 1.0), run(0.8, 1.0)])[0]
