"""The rules of `[network]`, each named with the key that breaks it.

Covers fedlite/scenario/network_rules.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import from_dict
from tests.scenario.tables import refusal

OWN = {"profile": "own", "up_kbps": 1.0, "down_kbps": 1.0, "speed": 1.0}
DENSE = {"compressor": "dense", "error_feedback": False}
FINE: dict[str, Any] = {
    "federation": {"sites": 8},
    "uplink": {"compressor": "rotated-topk", "error_feedback": False},
    "downlink": DENSE,
    "network": OWN | {"buffer": 4},
}


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ({"dropout": 0.1}, "network.profile"),
        ({"profile": "5g"}, "network.profile: must be empty, or one of fibre, 4g, lora, own"),
        (OWN | {"target": 80.0}, "network.target: must be from 0 to 1 (0.8 is 80 %)"),
        ({"profile": "own"}, "network.up_kbps"),
        (OWN | {"speed": 0.0}, "network.speed"),
        (OWN | {"dropout": 1.0}, "network.dropout"),
        (OWN | {"hours": 0.0}, "network.hours"),
        (OWN | {"over_selection": 0.3}, "network.over_selection: must be 0 where all sites"),
        (OWN | {"buffer": -1}, "network.buffer"),
        (OWN | {"buffer": 9}, "network.buffer: must be at most 8, the sites (rule:"),
        (OWN | {"buffer": 2, "over_selection": 0.5}, "network.over_selection"),
    ],
)
def test_a_wrong_network_is_named(network: dict[str, Any], key: str) -> None:
    assert key in refusal(FINE | {"network": network})


def test_a_buffer_gets_a_dense_downlink_where_none_is_named() -> None:
    one = from_dict({"federation": {"sites": 8}, "network": OWN | {"buffer": 4}})
    assert one.downlink.compressor == "dense" and not one.downlink.density
    assert any(note.startswith("downlink: dense, as the scenario names none") for note in one.notes)


def test_a_buffer_may_be_as_large_as_the_sites() -> None:
    assert from_dict(FINE | {"network": OWN | {"buffer": 8}}).network.buffer == 8


def test_a_profile_gives_what_the_keys_do_not() -> None:
    line = from_dict({"network": {"profile": "4g", "up_kbps": 1.5}}).network.line
    assert (line.up_kbps, line.down_kbps, line.latency_ms) == (1.5, 25_000.0, 50.0)


@pytest.mark.parametrize("up", ["eden", "randk", "rotated-topk", "dense"])
def test_a_buffer_takes_unbiased_frames_without_memory(up: str) -> None:
    from_dict(FINE | {"uplink": {"compressor": up, "error_feedback": False}})


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"uplink": {"compressor": "topk"}}, "uplink.compressor"),
        ({"uplink": {"compressor": "topk", "error_feedback": False}}, "uplink.compressor"),
        ({"uplink": {"compressor": "eden", "error_feedback": True}}, "uplink.compressor"),
        ({"uplink": {"compressor": "dense", "values": "fp16"}}, "uplink.compressor"),
        ({"uplink": {"compressor": "mine.py:make"}}, "uplink.compressor"),
        ({"uplink": FINE["uplink"] | {"aggregate_feedback": 0.5}}, "uplink.aggregate_feedback"),
        ({"downlink": {"compressor": "topk"}}, "downlink.compressor"),
        ({"federation": {"sites": 8, "quorum": 5}}, "federation.quorum"),
        ({"federation": {"sites": 8, "strategy": "median"}}, "federation.strategy"),
        ({"federation": {"sites": 8, "strategy": "mine.py:Rule"}}, "federation.strategy"),
        ({"federation": {"sites": 8, "weak": 0.5}}, "federation.weak"),
        ({"training": {"objective": "scaffold"}}, "training.objective"),
        ({"training": {"objective": "mine.py:term"}}, "training.objective"),
        ({"privacy": {"unit": "client", "noise_at": "server"}}, "privacy.noise_at"),
    ],
)
def test_a_buffer_refuses_what_needs_the_round(tables: dict[str, Any], key: str) -> None:
    told = refusal(FINE | tables)
    assert any(line.startswith(f"{key}: must") and "(rule:" in line for line in told.splitlines())


def test_secure_sums_are_not_timed_and_late_ones_change_no_noised_sum() -> None:
    private = {"privacy": {"unit": "record", "noise_at": "shared"}, "training": {"steps": 1}}
    assert "the steps of a secure sum are not timed" in refusal({"network": OWN} | private)
    at_server = {"privacy": {"unit": "client", "noise_at": "server"}}
    told = refusal({"network": OWN | {"over_selection": 0.5}} | at_server)
    assert "network.over_selection: must be 0 with privacy.noise_at server" in told


def test_a_private_run_on_ones_own_table_says_how_many_records_its_times_count() -> None:
    tables: dict[str, Any] = {
        "federation": {"sites": 8},
        "data": {
            "name": "csv",
            "path": "t.csv",
            "target": "y",
            "labels": "n, y",
            "columns": "a",
            "ranges": "a 0:1",
            "partition": "natural",
        },
        "model": {"name": "linear"},
        "training": {"epochs": 2},
        "privacy": {"unit": "client", "noise_at": "site"},
    }
    told = refusal(tables | {"network": OWN})
    assert (
        "network.records: must be above 0 with epochs" in told and "or take training.steps" in told
    )
    from_dict(tables | {"network": OWN | {"records": 50}})
    from_dict(tables | {"network": OWN, "training": {"steps": 2}})
    assert "network.records: must be 0 but" in refusal({"network": OWN | {"records": 50}})
