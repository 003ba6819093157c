"""What both ends compute from public settings.

Covers fedlite/protection.py.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import compression, plan, protection
from fedlite.models import build
from fedlite.parameters import Layout, to_vector
from fedlite.scenario import Scenario, from_dict, load, with_values

PRIVATE = {"unit": "record", "epsilon": 1.0, "expected_batch": 10}


def scenario(**privacy: object) -> Scenario:
    return from_dict(
        {
            "federation": {"rounds": 3, "sites": 3, "seed": 5},
            "model": {"name": "mlp"},
            "training": {"steps": 1, "batch_size": 8, "device": "cpu"},
            "privacy": privacy,
        }
    )


def made(scenario: Scenario) -> plan.Plan:
    return plan.of(scenario, (1, 8, 8), 10)


def test_a_plan_is_what_the_rooms_say_one_by_one() -> None:
    found = made(scenario())
    model = build("mlp", (1, 8, 8), 10, seed=5)
    assert found.layout == Layout.of(model) and found.mechanism is None and found.unit == "none"
    np.testing.assert_array_equal(found.initial, to_vector(model))
    np.testing.assert_array_equal(to_vector(found.model()), to_vector(model))
    assert found.scenario.uplink.compressor == "dense", "a model of 3,796 parameters is small"
    assert found.up_limit == found.down_limit == compression.Dense().limit(found.layout.size)


def test_a_plan_is_made_once_and_nobody_can_write_into_its_first_vector() -> None:
    assert made(scenario()) is made(scenario())
    assert made(scenario()).model() is not made(scenario()).model()
    with pytest.raises(ValueError, match="read-only"):
        made(scenario()).initial[0] = 1.0


def test_the_unit_and_the_bound_are_those_of_the_mechanism() -> None:
    private = {"unit": "client", "noise_at": "server", "clip": 0.5}
    server = made(scenario(**private))
    assert server.unit == "client-server" and server.central is server.mechanism
    assert 0 < server.update_norm <= 0.5
    assert server.up_limit == server.uplink.limit(server.layout.size) + compression.PAD_BYTES
    site = made(scenario(unit="client"))
    assert site.unit == "client-site" and site.central is None
    assert site.update_norm == site.longest_update > site.mechanism.noise_std
    assert made(scenario(**PRIVATE)).unit == "record"
    assert made(scenario(**PRIVATE, simulate_seed=0)).unit == "none"


def test_a_wrong_link_or_budget_is_named_by_its_key() -> None:
    wrong = from_dict({"uplink": {"compressor": "topk", "values": "nonsense"}})
    with pytest.raises(ValueError, match=r"^uplink\.values"):
        made(wrong)
    with pytest.raises(ValueError, match=r"^privacy\.epsilon: must be one that a noise"):
        made(scenario(unit="client", epsilon=1e-6, delta=1e-14))


def test_the_plan_fits_the_budget_and_needs_a_settled_batch() -> None:
    mechanism = plan.plan_mechanism(scenario(**PRIVATE))
    assert mechanism.steps == 3 and mechanism.expected_batch == 10
    # Tight Gaussian bound of Balle and Wang 2018: three steps at this noise give epsilon 1.
    mu = math.sqrt(3) / mechanism.noise_multiplier
    low, high = (0.5 * math.erfc((s * mu / 2 + 1.0 / mu) / math.sqrt(2)) for s in (-1, 1))
    assert low - math.e * high == pytest.approx(1e-5, rel=0.01)
    with pytest.raises(ValueError, match=r"privacy.expected_batch: .* got 0; set it"):
        plan.plan_mechanism(scenario(unit="record"))


def test_the_expected_batch_comes_from_public_numbers_only() -> None:
    left_open = scenario(unit="record", sampling_rate=0.5)
    settled = plan.settle_batch(left_open, 3000)
    assert settled.privacy.expected_batch == 400  # 0.5 x 3000 x 0.8 / 3
    assert plan.settle_batch(settled, 99) == settled
    assert plan.settle_batch(scenario(), 3000) == scenario()
    assert plan.settle_batch(left_open, 1).privacy.expected_batch == 1


def test_a_constant_rate_is_constant() -> None:
    assert {made(scenario()).learning_rate(r) for r in (1, 2, 3)} == {0.1}


def test_a_linear_rate_holds_and_then_falls_to_its_last_share() -> None:
    falling = from_dict(
        {
            "federation": {"rounds": 21},
            "training": {"learning_rate": 2.0, "schedule": "linear", "hold": 0.5, "final": 0.2},
        }
    )
    rates = [made(falling).learning_rate(r) for r in range(1, 22)]
    np.testing.assert_allclose(rates[:11], 2.0)
    np.testing.assert_allclose(rates[10:], np.linspace(2.0, 0.4, 11))


def test_a_plan_is_not_that_of_an_equal_scenario_that_left_its_links_open() -> None:
    """Both orders: the first that was asked for used to answer for the other."""
    left = {"federation": {"sites": 20}, "model": {"name": "mlp"}}
    for seed in (1, 2):
        left["federation"] = {"sites": 20, "seed": seed}
        up, down = from_dict(left).uplink, from_dict(left).downlink
        named = left | {"uplink": asdict(up), "downlink": asdict(down)}
        assert from_dict(named) == from_dict(left) and up.compressor == "rotated-topk"
        asked = [from_dict(left), from_dict(named)]
        for one in asked if seed == 1 else asked[::-1]:
            expected = "rotated-topk" if one is asked[1] else "dense"
            assert made(one).uplink.name == expected
            assert len(made(one).scenario.notes) == (0 if one is asked[1] else 2)


def test_a_plan_follows_the_file_of_its_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "from fedlite.models import tinyml\ndef make(shape, classes):\n"
    text += "    return tinyml.mlp(shape, {})"
    own = from_dict({"model": {"name": f"{file}:make"}})
    sizes = []
    for classes in ("classes", "classes + 1"):
        file.write_text(text.format(classes))
        found = made(own)
        assert found.layout == Layout.of(found.model())
        sizes.append(found.layout.size)
    assert sizes[0] < sizes[1]


def shared(**tables: Any) -> Scenario:
    base = {
        "federation": {"sites": 5, "quorum": 4},
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "uplink": {"compressor": "randk", "density": 0.1},
        "privacy": {"unit": "record", "noise_at": "shared", "expected_batch": 50},
    }
    return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in {*base, *tables}})


def test_shared_noise_is_planned_for_what_a_round_sums() -> None:
    found = made(shared(uplink={"densities": "exit 0.5"}))
    sizes = dict(zip(found.layout.names, found.layout.sizes, strict=True))
    wanted = sum(-(-size // (2 if name.startswith("exit") else 10)) for name, size in sizes.items())
    assert found.shared is not None
    assert found.shared.coordinates == len(found.support(1).indices) == wanted
    assert found.unit == "record-shared"
    assert found.longest_update == 0.0


def test_shared_noise_needs_the_model() -> None:
    with pytest.raises(ValueError, match=r"privacy\.coordinates: must be settled"):
        plan.plan_mechanism(shared())


@pytest.mark.long
@pytest.mark.parametrize("epsilon", [16.0, 24.0])
def test_what_rounding_costs_is_asked_before_anything_is_spent(epsilon: float) -> None:
    """The shipped scenario at an epsilon at which 1 % of delta does not pay for rounding."""
    path = Path("simulations/scenarios/quickstart-distributed.toml")
    given = with_values(load(path), "privacy", epsilon=epsilon)
    with pytest.raises(ValueError, match=r"privacy\.delta: rounding at the sites must cost"):
        plan.simulated(given)


def test_densities_of_tensors_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uplink\.densities: every entry .*'head'"):
        made(shared(uplink={"densities": "head 0.5"}))


def test_tensors_that_take_turns_are_not_summed() -> None:
    protection.check_turns(shared(), 0)
    with pytest.raises(ValueError, match="rule: a shared sum is of all of them"):
        protection.check_turns(shared(), 2)
