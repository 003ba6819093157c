"""Every key of a scenario has a type, a rule and a default; what breaks one is named.

Covers fedlite/privacy/ranges.py, fedlite/settings.py, fedlite/scenario/whole.py,
fedlite/scenario/fields.py, fedlite/scenario/records.py.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedlite.scenario import (
    Federation,
    Scenario,
    ScenarioError,
    from_dict,
    from_run_config,
    load,
    with_values,
)
from tests.scenario.tables import refusal


@pytest.mark.parametrize(
    ("section", "key", "value", "rule", "mend"),
    [
        ("uplink", "bits", 9, "from 1 to 8", "1"),
        ("uplink", "density", 1.01, "from 0.0 to 1.0", "0.0"),
        ("downlink", "density", -1.0, "from 0.0 to 1.0", "0.0"),
        ("privacy", "epsilon", 0.0, "greater than 0", "3.0"),
        ("privacy", "epsilon", -3, "greater than 0", "3.0"),
        ("privacy", "delta", 0.999, "at most 0.1", "1e-05"),
        ("privacy", "delta", 0.0, "greater than 0", "1e-05"),
        ("privacy", "unit", "group", "one of none, record, client", '"none"'),
        ("privacy", "clip", 0.0, "from 1e-6 to 1e6", "0.1"),
        ("privacy", "sampling_rate", 1.5, "at most 1", "1.0"),
        ("federation", "rounds", 0, "at least 1", "30"),
        ("federation", "participation", 0.0, "greater than 0 and at most 1", "1.0"),
        ("federation", "deadline_seconds", 0.0, "greater than 0", "600.0"),
        ("federation", "name", "a/b", "without '/'", "custom"),
        ("federation", "server_momentum", 1.0, "less than 1", "0.0"),
        ("data", "test_fraction", 0.6, "at most 0.5", "0.2"),
        ("data", "shape", "6xa", "sizes such as 6x100", '""'),
        ("data", "shape", "6x0", "sizes such as 6x100", '""'),
        ("data", "shape", "²", "sizes such as 6x100", '""'),
        ("data", "labels", "only", "two or more names", '""'),
        ("data", "labels", "a,,b", "two or more names", '""'),
        ("data", "labels", "a, b, a", "each once", '""'),
        ("training", "batch_size", 0, "at least 1", "32"),
        ("training", "learning_rate", 0.0, "greater than 0", "0.1"),
        ("training", "exit_weight", 1.1, "from 0.0 to 1.0", "0.5"),
        ("training", "device", "tpu", "auto, cpu or cuda", "auto"),
    ],
)
def test_a_value_outside_its_rule_is_named_with_rule_value_and_mend(
    section: str, key: str, value: Any, rule: str, mend: str
) -> None:
    text = refusal({section: {key: value}})
    assert text.count("\n") == 0
    shown = repr(float(value) if isinstance(value, int) and key == "epsilon" else value)
    for part in (f"{section}.{key}:", rule, shown, mend):
        assert part in text


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"federation": {"round": 3}}, "federation.round: no such key; did you mean rounds?"),
        ({"federaton": {}}, "[federaton]: no such section; did you mean federation?"),
        ({"privacy": {"sensitivity": 1.0}}, "privacy.sensitivity: no such key"),
        ({"federation": 3}, "federation: must be a table, got 3"),
        ({"federation": {"rounds": "3"}}, "federation.rounds: must be a whole number, got '3'"),
        ({"federation": {"rounds": True}}, "federation.rounds: must be a whole number, got True"),
        ({"federation": {"rounds": 3.0}}, "federation.rounds: must be a whole number, got 3.0"),
        ({"uplink": {"error_feedback": 1}}, "must be true or false, got 1"),
        ({"privacy": {"epsilon": math.nan}}, "privacy.epsilon: must be finite, got nan"),
        ({"training": {"learning_rate": math.inf}}, "training.learning_rate: must be finite"),
        ({"privacy": {"epsilon": [3.0]}}, "privacy.epsilon: must be a number, got [3.0]"),
    ],
)
def test_a_key_that_is_unknown_or_of_the_wrong_type(tables: dict[str, Any], expected: str) -> None:
    assert expected in refusal(tables)


def test_all_wrong_keys_are_told_at_once() -> None:
    text = refusal({"uplink": {"density": 2.0}, "privacy": {"epsilon": 0.0}, "dta": {}})
    assert len(text.splitlines()) == 3


def test_every_default_obeys_its_own_rule_and_survives_toml_and_run_config(
    tmp_path: Path,
) -> None:
    assert from_dict(Scenario().to_dict()) == Scenario()
    assert from_dict(from_dict({}).to_dict()) == from_dict({})
    changed = with_values(Scenario(), "privacy", epsilon=0.1 + 0.2)
    changed = with_values(changed, "federation", name='quote " and \\', seed=2**40)
    path = tmp_path / "other.toml"
    path.write_text(changed.to_toml(), encoding="utf-8")
    assert load(path) == changed
    flat = changed.to_run_config()
    assert set(map(type, flat.values())) <= {str, int, float, bool}
    assert from_run_config(flat | {"run.directory": "x", "run.quiet": True}) == changed


@given(st.integers(1, 1000), st.integers(1, 100))
def test_the_asked_share_is_rounded_up_exactly(sites: int, percent: int) -> None:
    asked = Federation(sites=sites, participation=percent / 100).participants
    assert asked == max(1, math.ceil(Fraction(percent, 100) * sites))


@pytest.mark.parametrize(
    "name", ["..", ".", ".hidden", "", "a/b", "a\n", "\x1b[2J", "x" * 65, "a\x00"]
)
def test_a_name_that_is_no_folder_s_name_is_refused(name: str) -> None:
    with pytest.raises(ScenarioError, match=r"federation\.name: must be 1 to 64 printable"):
        from_dict({"federation": {"name": name}})


@pytest.mark.parametrize("name", ["x" * 64, "Studie Zürich", "a..b", "42"])
def test_a_name_that_is_one_is_taken(name: str) -> None:
    assert from_dict({"federation": {"name": name}}).federation.name == name


def test_what_a_reader_must_know_is_what_was_set_and_what_decides_most() -> None:
    told = from_dict(
        {
            "federation": {"name": "mine", "participation": 1.0},
            "data": {"name": "csv", "path": "/home/jane-doe/patients.csv", "target": "ill"},
            "training": {"epochs": 1, "steps": 3},
            "simulation": {"sites": "/home/jane-doe/sites"},
        }
    ).notable()
    assert told["federation.name"] == "mine" and told["training.steps"] == 3
    assert told["data.path"] == told["simulation.sites"] == "set"
    assert not any("jane-doe" in str(value) for value in told.values())
    assert "training.epochs" not in told and "federation.rounds" not in told
    assert told["federation.participation"] == 1.0 and told["data.partition"] == "iid"
    assert {"training.batch_size", "uplink.compressor", "downlink.compressor"} <= told.keys()


def test_the_columns_tell_the_shape_where_the_file_is_elsewhere() -> None:
    table = {"name": "csv", "labels": "no,yes", "columns": 'age, "weight, kg", sex'}
    data = from_dict({"data": table | {"categories": "sex: f, m"}}).data
    assert data.at_sites and data.sizes == (4,)
    assert data.reading.names == ("age", "weight, kg", "sex")
    assert from_dict({"data": table | {"shape": "1x3"}}).data.sizes == (1, 3)


@pytest.mark.parametrize("unit", ["record", "client"])
def test_columns_that_go_raw_into_the_clip_are_told_with_the_mend(unit: str) -> None:
    tables: dict[str, Any] = {
        "data": {"name": "csv", "path": "a", "target": "b", "labels": "0,1", "scaling": "none"},
        "training": {"steps": 1},
        "privacy": {"unit": unit} | ({"expected_batch": 5} if unit == "record" else {}),
    }

    def told() -> list[str]:
        return [note for note in from_dict(tables).notes if "data.ranges" in note]

    assert len(told()) == 1 and "privacy.clip" in told()[0]
    tables["data"]["ranges"] = "age 0:120"
    assert not told()
    del tables["data"]["scaling"]
    assert not told(), "nor does scaling have to be turned off beside ranges"
    tables["data"] |= {"ranges": "", "scaling": "none"}
    tables["privacy"] = {"unit": "none"}
    assert not told()
