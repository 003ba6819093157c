"""Virtual time against figures worked out by hand, brute force, and the laws of its draws.

Covers server/clock.py.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.scenario import from_dict
from server.clock import Clock, drawn

# Of the mlp for 64 values and 10 classes, by hand: 64 to 32, 32 to 10, 32 to 32, 32 to 10.
MACS = 64 * 32 + 32 * 10 + 32 * 32 + 32 * 10
DAY = 86_400.0
OWN = {"profile": "own", "up_kbps": 8.0, "down_kbps": 80.0, "latency_ms": 250.0, "speed": 2.0}


def clock(records: int = 90, sites: int = 4, **tables: dict[str, Any]) -> Clock:
    base: dict[str, dict[str, Any]] = {
        "federation": {"sites": sites},
        "model": {"name": "mlp"},
        "network": OWN,
    }
    names = {*base, *tables}
    scenario = from_dict({n: base.get(n, {}) | tables.get(n, {}) for n in names})
    plan = plans.of(scenario, (1, 8, 8), 10)
    return Clock(plan, lambda name: records)


@pytest.mark.parametrize(
    ("training", "seen"),
    [
        ({"epochs": 3}, 3 * 90),
        ({"steps": 5, "batch_size": 32}, 5 * 32),
        ({"steps": 5, "batch_size": 400}, 5 * 90),
    ],
)
def test_a_sites_part_is_bytes_over_lines_work_over_speed_and_two_latencies(
    training: dict[str, Any], seen: int
) -> None:
    one = clock(training=training)
    # 1,000 bytes a second up, 10,000 down, a quarter of a second each way, 2 million a second.
    expected = 500 / 1_000 + 30_000 / 10_000 + 2 * 0.25 + 3 * MACS * seen / 2e6
    assert one.seconds("site-01", down=30_000, up=500) == pytest.approx(expected, rel=1e-12)


def test_private_sites_all_work_alike_so_that_time_tells_nothing_of_their_records() -> None:
    privacy = {"unit": "record", "expected_batch": 20}
    for records in (1, 5000):
        one = clock(records, training={"steps": 3}, privacy=privacy)
        assert one.work("site-01") == 3 * MACS * 3 * 20
    client = {"unit": "client"}
    for records in (1, 5000):
        one = clock(records, training={"epochs": 2}, privacy=client)
        # Digits have 1,797, of which a fifth is held out.
        assert one.work("site-01") == pytest.approx(3 * MACS * 2 * 1797 * 0.8 / 4)
        one = clock(records, training={"steps": 3, "batch_size": 64}, privacy=client)
        assert one.work("site-01") == 3 * MACS * 3 * 64
        one = clock(records, training={"epochs": 2}, privacy=client, network=OWN | {"records": 70})
        assert one.work("site-01") == 3 * MACS * 2 * 70


@pytest.mark.parametrize("needed", [1, 2, 3, 5])
def test_a_round_ends_with_the_last_that_is_needed(needed: int) -> None:
    one = clock(federation={"sites": 5, "participation": needed / 5, "deadline_seconds": 9.0})
    for times in itertools.permutations([1.0, 2.5, 2.5, 4.0]):
        answers = dict(zip("abcd", times, strict=True))
        for all_in in (True, False):
            seconds, late = one.lasted(answers, all_in=all_in)
            first = sorted(answers, key=lambda name: (answers[name], name))
            used = [name for name in answers if name not in late]
            assert sorted(used) == sorted(first[:needed])
            slowest = max(answers[name] for name in used)
            assert seconds == (slowest if needed <= 4 or all_in else 9.0)
    assert one.lasted({}, all_in=True) == (9.0, [])


def test_devices_differ_by_a_lognormal_factor_that_follows_from_seed_and_name_alone() -> None:
    one, again = clock(network={"spread": 0.5}), clock(network={"spread": 0.5})
    names = [f"site-{n}" for n in range(3000)]
    logs = np.log([one.device(name).up / 1_000.0 for name in names])
    # Six deviations of the mean and of the deviation of 3,000 normal draws.
    assert abs(logs.mean()) < 6 * 0.5 / 3000**0.5
    assert abs(logs.std() - 0.5) < 6 * 0.5 / 6000**0.5
    downs = np.log([one.device(name).down for name in names])
    assert abs(np.corrcoef(logs, downs)[0, 1]) < 6 / 3000**0.5
    assert again.device("site-7") == one.device("site-7") != one.device("site-8")
    other = clock(network={"spread": 0.5}, federation={"seed": 2})
    assert other.device("site-7") != one.device("site-7")


def test_as_many_drop_out_as_the_key_says_and_others_each_round() -> None:
    one = clock(network={"dropout": 0.2})
    lost = [[one.drops_out(f"s{n}", number) for n in range(500)] for number in (1, 2, 3, 4)]
    assert abs(np.mean(lost) - 0.2) < 6 * (0.16 / 2000) ** 0.5
    assert lost[0] != lost[1] and not clock().drops_out("s1", 1)


def test_a_site_is_there_for_its_hours_of_every_day() -> None:
    one = clock(network={"hours": 6.0})
    for name in ("a", "b", "c"):
        minutes = np.arange(0, 3 * DAY, 60.0)
        there = np.array([one.awake(name, t) for t in minutes])
        assert there.mean() == pytest.approx(0.25, abs=0.001)
        # Once a day on, once off.
        assert np.count_nonzero(np.diff(there.astype(int))) in (5, 6)


def test_the_first_moment_with_enough_sites_is_found_and_none_is_told() -> None:
    names = [f"site-{n}" for n in range(6)]
    one = clock(network={"hours": 9.0})
    times = np.arange(0, DAY, 30.0)
    there = np.array([[one.awake(name, t) for name in names] for t in times]).sum(axis=1)
    for least in range(1, int(there.max()) + 1):
        found = one.when(names, least, 0.0)
        brute = times[np.argmax(there >= least)]
        assert 0 <= brute - found < 30.0 or found == brute == 0
        assert sum(one.awake(name, found) for name in names) >= least
    with pytest.raises(ValueError, match=r"network.hours: must let .* sites be asked at once"):
        one.when(names, int(there.max()) + 1, 0.0)


def test_only_those_who_are_there_are_drawn_each_as_often_as_any_other() -> None:
    names = [f"site-{n:02d}" for n in range(20)]
    one = clock(sites=20, network={"hours": 12.0})
    there = {name for name in names if one.awake(name, 1000.0)}
    counts = dict.fromkeys(there, 0)
    for seed in range(2000):
        found = one.draw(names, 3, np.random.default_rng(seed), 1000.0)
        assert found == sorted(found) and len(found) == 3
        for name in found:
            counts[name] += 1
    expected = 6000 / len(there)
    squares = sum((n - expected) ** 2 / expected for n in counts.values())
    # Draws without replacement vary less than the chi-square law, whose mean is the freedom.
    assert squares < 3 * len(there)
    assert one.draw(names, 99, np.random.default_rng(1), 1000.0) == sorted(there)
    assert drawn(names, 99, np.random.default_rng(1)) == names
