"""Covers fedlite/guard/policy_keys.py."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fedlite.guard.policy import (
    DataSet,
    Limits,
    PolicyError,
    SitePolicy,
    for_data,
    for_scenario,
    load,
)
from fedlite.scenario import from_dict


def saved(path: Path, text: str) -> Path:
    file = path / "site.toml"
    file.write_text(text, encoding="utf-8")
    return file


def errors(path: Path, text: str) -> list[str]:
    file = saved(path, text)
    with pytest.raises(PolicyError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def test_what_is_not_said_is_safe(tmp_path: Path) -> None:
    policy = load(saved(tmp_path, '[site]\nname = "north"\n'))
    assert policy == SitePolicy(site="north")
    assert (policy.epsilon, policy.delta, policy.owner) == (3.0, 1e-5, "")
    assert (policy.units, policy.metrics, policy.servers) == (("record",), (), ())
    assert not policy.allows("none")


def test_the_documented_example_is_the_default(tmp_path: Path) -> None:
    from fedlite.guard import policy

    example = (policy.__doc__ or "").split("```toml\n")[1].split("```")[0]
    assert load(saved(tmp_path, example)) == SitePolicy(site="site-01")
    assert {k for t in tomllib.loads(example).values() for k in t} == {
        *(
            "name",
            "owner",
            "epsilon",
            "delta",
            "person",
            "per_run",
            "honest",
            "alone",
            "units",
            "metrics",
            "clock",
        ),
        "keys",
        *(field.name for field in fields(Limits)),
        *("fetch", "bytes", "honest", "alone"),
    }


def test_a_whole_number_is_a_number_and_a_repetition_says_nothing(tmp_path: Path) -> None:
    policy = load(saved(tmp_path, '[budget]\nepsilon = 2\nunits = ["record", "record"]\n'))
    assert (policy.epsilon, policy.units) == (2.0, ("record",))


@pytest.mark.parametrize(
    ("table", "key", "value", "rule"),
    [
        ("site", "name", '""', "1 to 64 printable"),
        ("site", "name", '"a/b"', "1 to 64 printable"),
        ("site", "name", "3", "a string"),
        ("site", "owner", '"abc"', "64 lower-case hex"),
        ("budget", "epsilon", "-1.0", "from 0 to 100"),
        ("budget", "epsilon", "nan", "finite"),
        ("budget", "epsilon", "inf", "finite"),
        ("budget", "epsilon", "true", "a number"),
        ("budget", "epsilon", '"3"', "a number"),
        ("budget", "delta", "0.0", "greater than 0"),
        ("budget", "delta", "0.999", "at most 0.1"),
        ("budget", "person", "101.0", "from 0 to 100"),
        ("budget", "per_run", "-0.5", "from 0 to 100"),
        (
            "budget",
            "units",
            '"record"',
            "a list of record, record-shared, client-site, client-server, client-shared, none",
        ),
        ("budget", "units", '["records"]', "a list of record"),
        ("budget", "units", "[1]", "a list of record"),
        ("egress", "metrics", '["loss"]', "a list of records"),
        ("servers", "keys", '["1a"]', "64 lower-case hex"),
        ("limits", "device", '"gpu"', "auto, cpu or cuda"),
        ("limits", "threads", "65", "from 1 to 64"),
        ("limits", "threads", "true", "a whole number"),
        ("limits", "up", "0", "from 1 to"),
        ("limits", "down", "-1", "from 1 to"),
        ("limits", "seconds", "1.5", "a whole number"),
        ("limits", "sandbox", '"no"', "true or false"),
        ("data.heart-disease", "epsilon", "-1.0", "from 0 to 100"),
        ("data.heart-disease", "part", '"a\\nb"', "one printable line"),
    ],
)
def test_a_wrong_value_is_named_with_rule_and_mend(
    tmp_path: Path, table: str, key: str, value: str, rule: str
) -> None:
    (line,) = errors(tmp_path, f"[{table}]\n{key} = {value}\n")
    assert line.startswith(f"{table}.{key}: must be ") and rule in line
    assert ", got " in line and ("default is" in line or "for example" in line or "; use" in line)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = """
egress = 3
[budget]
epsilonn = 3.0
delta = 0.0
units = ["all"]
[sever]
keys = []
"""
    found = errors(tmp_path, text)
    assert len(found) == 5
    for part in ("[sever]: no such table; did you mean server", "egress: must be a table",
                 "budget.epsilonn: no such key; did you mean epsilon?", "budget.delta",
                 "budget.units"):  # fmt: skip
        assert any(part in line for line in found), part


@pytest.mark.parametrize("text", ["[budget", "x = \x00", "[budget]\nepsilon = 1\nepsilon = 2\n"])
def test_what_is_no_toml_allows_nothing(tmp_path: Path, text: str) -> None:
    (line,) = errors(tmp_path, text)
    assert "cannot be read as TOML" in line


def test_a_missing_or_unreadable_file_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such file"):
        load(tmp_path / "site.toml")
    with pytest.raises(PolicyError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "site.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="cannot be read"):
        load(tmp_path / "site.toml")


def scenario(**tables: Any) -> Any:
    return from_dict(tables)


def test_a_simulated_site_allows_what_its_scenario_needs_and_no_more() -> None:
    private = {"unit": "record", "epsilon": 2.0, "delta": 1e-6}
    training = {"steps": 1}
    policy = for_scenario(scenario(privacy=private, training=training), "north")
    expected = SitePolicy(epsilon=2.0, delta=1e-6, units=("record",), site="north")
    assert policy == expected
    higher = scenario(privacy=private, training=training, simulation={"ceiling": 5.0})
    assert for_scenario(higher, "north") == replace(expected, epsilon=5.0)
    lasting = scenario(privacy=private, training=training, simulation={"sites": "homes"})
    kept = for_scenario(lasting, "north")
    assert (kept.units, kept.person) == (("record", "record-shared"), 2.0)
    repeatable = scenario(privacy=private | {"simulate_seed": 1}, training=training)
    assert for_scenario(repeatable, "north").units == ("none",)


@pytest.mark.parametrize("at", ["site", "server"])
def test_a_client_s_unit_says_where_the_noise_is_added(at: str) -> None:
    private = {"unit": "client", "noise_at": at}
    given = scenario(privacy=private, uplink={"error_feedback": False})
    assert for_scenario(given, "north").units == (f"client-{at}",)


def test_without_privacy_a_record_count_leaves_only_where_it_is_needed() -> None:
    assert for_scenario(scenario(), "north").units == ("none",)
    assert for_scenario(scenario(), "north").metrics == ()
    weighted = scenario(federation={"weighting": "records"})
    assert for_scenario(weighted, "north").metrics == ("records",)


DIGEST = "ab" * 32


def test_a_data_set_is_answered_by_the_source_of_its_name_unless_said(tmp_path: Path) -> None:
    policy = load(saved(tmp_path, "[data.heart-disease]\n[data.mine]\nsource = 'digits'\n"))
    assert policy.data_set("heart-disease") == DataSet("heart-disease", "heart-disease")
    assert policy.data_set("mine") == DataSet("mine", "digits")
    assert policy.data_set("digits") is None


def test_a_file_of_one_s_own_starts_at_the_site_s_folder(tmp_path: Path) -> None:
    assert DataSet("a", "csv", path="x.csv").file(tmp_path) == tmp_path / "x.csv"
    assert DataSet("a", "csv", path="/x.csv").file(tmp_path) == Path("/x.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[data.hart]", "data.hart.source: must be one of digits"),
        ("[data.csv]\ntarget = 'y'", "data.csv.path: must be given for csv"),
        ('[data.digits]\npath = "a"', "data.digits.path: is only for records of your own"),
        ('[data.digits]\nname = "a"', "data.digits.name: no such key"),
        ('[data.digits]\nsourc = "a"', "data.digits.sourc: no such key; did you mean source"),
        ('[data."a/b"]\nsource = "digits"', "[data]: a data set's name must be"),
        ("[data]\ndigits = 1", "data.digits: must be a table"),
        ("data = 1", "data: must be a table"),
        ("bundles = 1", "bundles: must be a table"),
        (f"[bundles]\n{DIGEST} = 1", f"bundles.{DIGEST}: must be a table"),
        ("[bundles.abc]", "[bundles.abc]: must be named by 64"),
        (f"[bundles.{DIGEST}]\nsha256 = 'x'", f"bundles.{DIGEST}.sha256: no such key"),
        (f"[bundles.{DIGEST}]\nwho = 'x'", f"bundles.{DIGEST}.who: no such key"),
        (f"[bundles.{DIGEST}]\nsettings = 3", f"bundles.{DIGEST}.settings: must be a table"),
        (f"[bundles.{DIGEST}.settings]\na = [1]", f"bundles.{DIGEST}.settings.a: must be a text"),
        (f"[bundles.{DIGEST}.settings]\na.b = 1", "quote a key that holds dots"),
        (f"[bundles.{DIGEST}.settings]\na = nan", f"bundles.{DIGEST}.settings.a: must be"),
        (f"[bundles.{DIGEST}.at_most]\na = 1", "at least the approved one, None, got 1"),
        (f"[bundles.{DIGEST}]\nsettings.a = 2\nat_most.a = 1", "approved one, 2, got 1"),
        (f"[bundles.{DIGEST}]\nsettings.a = true\nat_most.a = 1", "approved one, True"),
        (f"[bundles.{DIGEST}]\nsettings.a = 1\nat_most.a = true", "got True"),
    ],
)
def test_a_wrong_table_of_data_or_bundles_is_named(
    tmp_path: Path, text: str, expected: str
) -> None:
    (line,) = errors(tmp_path, text)
    assert expected in line


def test_the_lower_ceiling_of_budget_and_data_set_counts() -> None:
    policy = SitePolicy(
        epsilon=2.0, data=(DataSet("low", epsilon=1.0), DataSet("high", epsilon=9.0), DataSet("no"))
    )
    assert [for_data(policy, n).epsilon for n in ("low", "high", "no", "?")] == [1.0, 2.0, 2.0, 2.0]
    assert for_data(replace(policy, epsilon=0.0), "low").epsilon == 0.0
    assert for_data(policy, "low").data == policy.data


@pytest.mark.parametrize(
    ("alone", "own", "expected"),
    [
        # Of budget.alone, and of the table's epsilon and alone: what is left if others collude.
        (8.0, (1.0, 0.0), 1.0),
        (8.0, (1.0, 4.0), 4.0),
        (8.0, (1.0, 9.0), 8.0),
        (8.0, (0.0, 4.0), 4.0),
        (8.0, (5.0, 0.0), 5.0),
        (8.0, (0.0, 0.0), 8.0),
        (0.0, (1.0, 4.0), 1.0),
    ],
)
def test_a_ceiling_of_a_data_set_is_one_if_others_collude_too(
    alone: float, own: tuple[float, float], expected: float
) -> None:
    chosen = DataSet("notes", epsilon=own[0], alone=own[1])
    assert for_data(SitePolicy(epsilon=2.0, alone=alone, data=(chosen,)), "notes").collusion == (
        expected
    )
