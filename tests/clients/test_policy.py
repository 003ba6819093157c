from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.policy import PolicyError, SitePolicy, for_scenario, load, write
from fedlite.config import from_dict

KEY = "1a" * 32


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


FULL = SitePolicy(
    epsilon=2.5,
    delta=1e-6,
    person=4.0,
    per_run=1.25,
    units=("client-server", "client-site", "none", "record"),
    metrics=("records",),
    servers=(KEY, "2b" * 32),
    site='Søsterhus "B" \\ 3',
    owner="3c" * 32,
)


@pytest.mark.parametrize("policy", [FULL, SitePolicy(), SitePolicy(epsilon=0.0, units=())])
def test_what_is_written_is_read_again(tmp_path: Path, policy: SitePolicy) -> None:
    file = tmp_path / "site.toml"
    write(file, policy)
    assert load(file) == policy


def test_a_written_policy_explains_every_key(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    write(file, FULL)
    lines = file.read_text(encoding="utf-8").splitlines()
    above = ""
    for line in lines:
        if " = " in line and not line.startswith("#"):
            assert above.startswith(("#", "[site]")) or line.startswith("delta")
        above = line
    assert sum(" = " in line for line in lines if line[:1] != "#") == 9


def test_the_documented_example_is_the_default(tmp_path: Path) -> None:
    from clients import policy

    example = (policy.__doc__ or "").split("```toml\n")[1].split("```")[0]
    assert load(saved(tmp_path, example)) == SitePolicy(site="site-01")
    assert {k for t in tomllib.loads(example).values() for k in t} == {
        *("name", "owner", "epsilon", "delta", "person", "per_run", "units", "metrics", "keys")
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
        ("budget", "delta", "1.0", "less than 1"),
        ("budget", "person", "101.0", "from 0 to 100"),
        ("budget", "per_run", "-0.5", "from 0 to 100"),
        ("budget", "units", '"record"', "a list of record, client-site, client-server, none"),
        ("budget", "units", '["records"]', "a list of record"),
        ("budget", "units", "[1]", "a list of record"),
        ("egress", "metrics", '["loss"]', "a list of records"),
        ("servers", "keys", '["1a"]', "64 lower-case hex"),
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
