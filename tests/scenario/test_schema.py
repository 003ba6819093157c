"""The schema takes what the scenario takes, and says no where a key, a type or a range is wrong."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from fedlite.project import schema_text
from fedlite.scenario import Scenario, ScenarioError, from_dict
from fedlite.scenario.schema import meanings_in, schema
from fedlite.scenario.whole import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    [
        *(ROOT / "simulations" / "scenarios").glob("*.toml"),
        *(ROOT / "fedlite" / "templates").rglob("scenario.toml"),
        *(ROOT / "examples").rglob("scenario.toml"),
    ]
)
VALIDATOR = Draft7Validator(schema())


def wrong(tables: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tables)]


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem + "-" + path.parent.name)
def test_every_shipped_scenario_validates(path: Path) -> None:
    assert wrong(tomllib.loads(path.read_text(encoding="utf-8"))) == []


def test_a_run_s_whole_scenario_validates() -> None:
    assert wrong(tomllib.loads(Scenario().to_toml())) == []


def test_every_key_is_there_with_its_default_and_its_meaning() -> None:
    told = json.loads(schema_text())["properties"]
    values = Scenario().to_dict()
    for name, kind in SECTIONS.items():
        keys = told[name]["properties"]
        assert list(keys) == [field.name for field in fields(kind)]
        for field in fields(kind):
            assert keys[field.name]["default"] == values[name][field.name]
            description = keys[field.name]["description"]
            assert len(description) > 10 and "](" not in description, (name, field.name)


# What the reader refuses by a single key's rule, the schema refuses, and the other way round.
WRONG: list[tuple[str, str, object]] = [
    ("federation", "rouns", 5),
    ("federation", "rounds", 0),
    ("federation", "rounds", 2.5),
    ("federation", "rounds", "ten"),
    ("federation", "participation", 0.0),
    ("federation", "participation", 1.01),
    ("federation", "weighting", "size"),
    ("federation", "outlier_factor", 1.5),
    ("federation", "server_momentum", 1.0),
    ("federation", "name", ".hidden"),
    ("federation", "name", "a/b"),
    ("federation", "name", "a" * 65),
    ("federation", "deliver", 1),
    ("federation", "strategy", ""),
    ("data", "partition", ""),
    ("model", "options", 3),
    ("data", "test_fraction", 0.51),
    ("data", "shape", "6by100"),
    ("data", "shape", "0x3"),
    ("data", "alpha", 0),
    ("training", "device", "tpu"),
    ("training", "momentum", -0.1),
    ("training", "exit_weight", 1.1),
    ("privacy", "epsilon", 0.0),
    ("privacy", "epsilon", 100.5),
    ("privacy", "unit", "person"),
    ("privacy", "clip", 1e-7),
    ("privacy", "simulate_seed", -2),
    ("uplink", "bits", 9),
    ("uplink", "density", -0.1),
]
RIGHT: list[tuple[str, str, object]] = [
    ("federation", "rounds", 1),
    ("federation", "outlier_factor", 0),
    ("federation", "outlier_factor", 2),
    ("federation", "participation", 1),
    ("federation", "name", "a name"),
    ("model", "options", {"hidden": 3}),
    ("model", "options", '{"hidden": 3}'),
    ("data", "shape", "6x100"),
    ("data", "test_fraction", 0.5),
    ("training", "momentum", 0.999),
    ("privacy", "epsilon", 100),
    ("uplink", "bits", 8),
]


@pytest.mark.parametrize(("section", "key", "value"), WRONG)
def test_what_the_reader_refuses_the_schema_refuses(section: str, key: str, value: object) -> None:
    with pytest.raises(ScenarioError, match=rf"{section}\.{key}:"):
        from_dict({section: {key: value}})
    assert wrong({section: {key: value}})


@pytest.mark.parametrize(("section", "key", "value"), RIGHT)
def test_what_the_reader_takes_the_schema_takes(section: str, key: str, value: object) -> None:
    from_dict({section: {key: value}})
    assert wrong({section: {key: value}}) == []


def test_an_unknown_section_is_wrong() -> None:
    assert wrong({"trainig": {}}) and wrong({"training": 3})


def test_meanings_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    told = meanings_in(page)
    assert {s for s, _ in told} == set(SECTIONS)
    assert told["federation", "rounds"] == "How many rounds."
    assert told["uplink", "bits"] == told["downlink", "bits"]
