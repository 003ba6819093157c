"""Scenarios for which shared noise proves nothing are refused, by the rule's name."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import Scenario, ScenarioError, from_dict

GOOD: dict[str, dict[str, Any]] = {
    "federation": {"sites": 5, "quorum": 4},
    "training": {"steps": 1},
    "privacy": {"unit": "record", "noise_at": "shared"},
}

WHOLE = {"unit": "client"}
FIFTEEN = {"federation": {"sites": 15, "quorum": 15}}


def changed(**tables: dict[str, Any]) -> Scenario:
    names = {*GOOD, *tables}
    return from_dict({name: GOOD.get(name, {}) | tables.get(name, {}) for name in names})


def test_a_scenario_gets_a_common_support_and_two_thirds_honest() -> None:
    scenario = changed()
    assert scenario.shared
    assert scenario.honest == 4
    link = scenario.uplink
    assert (link.compressor, link.density, link.error_feedback) == ("randk", 0.1, False)
    named = changed(uplink={"compressor": "randk", "density": 0.02, "densities": "exit 0.3"})
    assert not named.uplink.error_feedback
    assert changed(uplink={"compressor": "dense"}).uplink.compressor == "dense"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"privacy": WHOLE | {"sampling_rate": 0.5}}, "sampling_rate: .*rule: no amplification"),
        ({"privacy": WHOLE | {"expected_batch": 9}}, "privacy.expected_batch: must be 0"),
        ({"privacy": WHOLE | {"delta": 0.09}, "federation": {"sites": 20, "quorum": 19}}, "delta"),
        ({"privacy": WHOLE, "uplink": {"error_feedback": True}}, "rule: what was left out"),
        ({"privacy": WHOLE, "federation": {"update_norm": 1.0}}, "rule: the server sees no single"),
        ({"privacy": WHOLE, "federation": {"participation": 0.5}}, "rule: the members of a sum"),
        ({"privacy": WHOLE, "training": {"objective": "scaffold"}}, "training.objective: "),
        ({"training": {"steps": 5}}, "training.steps: .*rule: one sum a noised step"),
        ({"privacy": {"max_batch": 9, "max_records": 99}}, "privacy.max_batch: .*rule: what cuts"),
        ({"federation": {"sites": 2, "quorum": 2}}, "federation.sites: .*rule: a sum of few"),
        ({"federation": {"sites": 101, "quorum": 90}}, "federation.sites: must be from 3 to 100"),
        ({"privacy": {"honest": 6}}, "privacy.honest: must be at most federation.sites"),
        ({"federation": {"quorum": 3}}, "federation.quorum: .*rule: the server may never find two"),
        ({"privacy": {"honest": 2}}, "federation.quorum: .*set it from 5 to 5"),
        ({"federation": {"participation": 0.5, "quorum": 3}}, "participation: .*approved people"),
        ({"federation": {"weak": 0.2}}, "federation.weak: .*rule: all sites sum the same"),
        ({"federation": {"strategy": "median"}}, "strategy: .*rule: the server sees no single"),
        ({"federation": {"strategy": "median"}}, "strategy: .*; set privacy.groups to judge sums"),
        ({"federation": {"strategy": "feddyn"}, "privacy": {"groups": 2}}, "federation.strategy: "),
        ({"privacy": {"groups": 34}}, "privacy.groups: must be from 1 to 33"),
        (
            {"privacy": {"groups": 2}},
            "privacy.groups: must divide federation.sites .* with 5 sites",
        ),
        (FIFTEEN | {"privacy": {"groups": 15, "honest": 15}}, "groups: must divide .* at least 3"),
        (FIFTEEN | {"privacy": {"groups": 3}}, r"groups: must leave more than 5 \+ 2 x 0 sites"),
        (FIFTEEN | {"privacy": {"groups": 5, "honest": 12}}, r"groups: must leave more than 3 \+"),
        (
            {"federation": {"sites": 15, "quorum": 13}, "privacy": {"groups": 3, "honest": 14}},
            r"groups: must leave more than 1 \+ 2 x 2 sites in a group",
        ),
        ({"uplink": {"compressor": "topk"}}, "uplink.compressor: .*rule: only a linear compressor"),
        ({"uplink": {"compressor": "eden"}}, "uplink.compressor: .*rule: only a linear compressor"),
        ({"uplink": {"compressor": "randk", "values": "fp16"}}, "uplink.density: must be set"),
        ({"uplink": {"compressor": "randk", "values": "fp16"}}, "uplink.values: .*whole numbers"),
        ({"uplink": {"error_feedback": True}}, "uplink.error_feedback: .*rule: what was left out"),
        ({"uplink": {"aggregate_feedback": 0.5}}, "uplink.error_feedback: must be false, and"),
        ({"federation": {"update_norm": 1.0}}, "federation.update_norm: .*no single update"),
        ({"uplink": {"densities": "exit 2"}}, "uplink.densities: must be"),
        ({"downlink": {"densities": "exit 0.3"}}, "downlink.densities: must be empty unless"),
    ],
)
def test_what_is_not_proven_is_refused(tables: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        changed(**tables)


@pytest.mark.parametrize("strategy", ["fedavg", "median", "trimmed-mean", "krum", "norm-bound"])
def test_groups_let_a_robust_rule_judge_their_sums(strategy: str) -> None:
    federation = FIFTEEN["federation"] | {"strategy": strategy}
    given = changed(federation=federation, privacy={"groups": 5, "honest": 13})
    assert given.privacy.groups == 5
    # One more may be missing if nobody else is dishonest, and then there is nobody to withstand.
    federation |= {"quorum": 14}
    if strategy == "fedavg":
        assert changed(federation=federation, privacy={"groups": 5, "honest": 15})
    else:
        with pytest.raises(ScenarioError, match=r"^.*privacy\.honest: must be below .*, 15, with"):
            changed(federation=federation, privacy={"groups": 5, "honest": 15})


def test_groups_are_divided_by_eight_bytes_of_a_seed() -> None:
    federation = FIFTEEN["federation"] | {"seed": 2**64 - 1}
    privacy = {"groups": 3, "honest": 14}
    assert changed(federation=federation, privacy=privacy).federation.seed == 2**64 - 1
    with pytest.raises(ScenarioError, match=r"federation\.seed: must be below 2\^64"):
        changed(federation=federation | {"seed": 2**64}, privacy=privacy)


def test_a_whole_update_may_take_as_many_steps_as_it_likes() -> None:
    scenario = changed(privacy=WHOLE, training={"steps": 7, "momentum": 0.5})
    assert scenario.shared and not scenario.noised_at_server
    assert changed(privacy=WHOLE, training={"steps": 0}).shared


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"privacy": {"honest": 3}}, "privacy.honest: must be left out unless privacy.noise_at"),
        ({"privacy": {"coordinates": 9}}, "privacy.coordinates: must be left out unless"),
        ({"privacy": {"groups": 3}}, "privacy.groups: must be 1 unless privacy.noise_at is shared"),
        ({"privacy": {"members": f'{{"a": "{64 * "0"}"}}'}}, "privacy.members: must be left out"),
        ({"uplink": {"densities": "exit 0.3"}}, "uplink.densities: must be empty unless"),
    ],
)
def test_keys_of_shared_noise_mean_nothing_without_it(
    tables: dict[str, dict[str, Any]], words: str
) -> None:
    with pytest.raises(ScenarioError, match=words):
        from_dict(tables)


def test_the_quorum_that_is_named_is_the_least_that_is_allowed() -> None:
    for sites in range(3, 13):
        for honest in range(1, sites + 1):
            for quorum in range(1, sites + 1):
                tables = {"federation": {"sites": sites, "quorum": quorum}}
                fits = 2 * quorum > 2 * sites - honest
                try:
                    changed(**tables, privacy={"honest": honest})
                except ScenarioError as error:
                    assert not fits
                    told = str(error).split("set it from ")[1].split(" to ")[0]
                    assert 2 * int(told) > 2 * sites - honest >= 2 * int(told) - 2 or sites == int(
                        told
                    )
                else:
                    assert fits
