"""What is recommended for a link that names nothing, and what is kept of one that does."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import (
    from_dict,
)
from tests.scenario.tables import PRIVATE


@pytest.mark.parametrize(
    ("tables", "compressor"),
    [
        ({"federation": {"sites": 20}}, "rotated-topk"),
        ({"federation": {"sites": 20, "participation": 0.25}}, "rotated-topk"),
        ({"federation": {"sites": 20, "participation": 0.05}}, "topk"),
        ({"federation": {"sites": 3}}, "rotated-topk"),
        ({"federation": {"sites": 20, "update_norm": 1.0}}, "topk"),
        ({"federation": {"sites": 20}, "training": {"steps": 1}, "privacy": PRIVATE}, "topk"),
        ({"federation": {"sites": 3, "strategy": "median"}}, "rotated-topk"),
        ({"federation": {"sites": 20, "strategy": "median", "update_norm": 1.0}}, "eden"),
        ({"federation": {"sites": 20, "strategy": "krum", "update_norm": 1.0}}, "topk"),
        (
            {
                "federation": {"sites": 20, "strategy": "trimmed-mean"},
                "training": {"steps": 1},
                "privacy": PRIVATE,
            },
            "eden",
        ),
        (
            {"federation": {"sites": 3}, "privacy": {"unit": "client", "noise_at": "server"}},
            "eden",
        ),
    ],
)
def test_a_link_that_names_nothing_gets_what_is_recommended_and_says_so(
    tables: dict[str, Any], compressor: str
) -> None:
    scenario = from_dict(tables)
    assert scenario.uplink.compressor == compressor
    assert scenario.uplink.error_feedback == (compressor == "topk")
    assert [note.split(":")[0] for note in scenario.notes] == ["uplink", "downlink"]
    assert compressor in scenario.notes[0]
    down = scenario.downlink
    assert (down.compressor, down.density, down.values) == ("topk", 0.07, "levels-2")
    # What was chosen is written out, so that nothing is chosen twice.
    assert from_dict(scenario.to_dict()) == scenario
    assert from_dict(scenario.to_dict()).notes == ()


@pytest.mark.parametrize(
    ("link", "feedback"),
    [
        ({"density": 0.1}, True),
        ({"compressor": "dense"}, True),
        ({"compressor": "eden"}, False),
        ({"compressor": "randk"}, False),
        ({"compressor": "rotated-topk", "density": 0.03}, False),
        ({"compressor": "eden", "error_feedback": True}, True),
    ],
)
def test_error_feedback_is_left_out_where_a_compressor_can_be_unbiased(
    link: dict[str, Any], feedback: bool
) -> None:
    scenario = from_dict({"federation": {"sites": 20}, "uplink": link})
    assert scenario.uplink.error_feedback is feedback
    assert scenario.uplink.compressor == link.get("compressor", "topk")
    assert not [note for note in scenario.notes if note.startswith("uplink")]


def test_what_a_link_does_name_is_kept() -> None:
    tables = {"federation": {"sites": 20}, "uplink": {"aggregate_feedback": 0.5}}
    assert from_dict(tables).uplink.aggregate_feedback == 0.5
    assert from_dict(tables).uplink.compressor == "rotated-topk"


def test_the_strategies_that_look_at_one_coordinate_at_a_time_are_known() -> None:
    from fedlite.scenario.links import _BY_COORDINATE
    from strategies import STRATEGIES, CoordinateWise

    found = {name for name, kind in STRATEGIES.items() if issubclass(kind, CoordinateWise)}
    assert found == set(_BY_COORDINATE)


def test_the_compressors_that_can_be_unbiased_are_known() -> None:
    from fedlite.compression.compressor import COMPRESSORS, Settings
    from fedlite.scenario.links import _UNBIASED

    able = {name for name, build in COMPRESSORS.items() if hasattr(build(Settings()), "unbiased")}
    assert able == set(_UNBIASED)


def test_dense_needs_no_word_on_error_feedback_where_the_server_clips() -> None:
    privacy = {"unit": "client", "noise_at": "server"}
    scenario = from_dict({"uplink": {"compressor": "dense"}, "privacy": privacy})
    assert scenario.uplink.error_feedback is False
