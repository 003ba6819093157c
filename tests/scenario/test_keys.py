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


def refusal(tables: dict[str, Any]) -> str:
    with pytest.raises(ScenarioError) as caught:
        from_dict(tables)
    return str(caught.value)


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


PRIVATE = {"unit": "record", "delta": 1e-5}


@pytest.mark.parametrize(
    ("tables", "key", "rule"),
    [
        ({"federation": {"sites": 3, "quorum": 4}}, "federation.quorum", "at most the 3 sites"),
        (
            {"federation": {"sites": 10, "participation": 0.2, "quorum": 3}},
            "federation.quorum",
            "at most the 2 sites",
        ),
        ({"privacy": PRIVATE}, "training.steps", "at least 1"),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "momentum": 0.9}},
            "training.momentum",
            "must be 0 under record-level privacy",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "weight_decay": 0.1}},
            "training.weight_decay",
            "must be 0 under record-level privacy",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "proximal": 0.1}},
            "training.proximal",
            "must be 0 under record-level privacy",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "logit_adjustment": True}},
            "training.logit_adjustment",
            "must be false when privacy.unit is record",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1}, "federation": {"weighting": "records"}},
            "federation.weighting",
            "no record count leaves a private site",
        ),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "data": {"name": "csv", "path": "a", "target": "b"},
            },
            "data.scaling",
            "must be none, or give way to data.ranges",
        ),
        *(
            (
                {
                    "privacy": privacy,
                    "training": {"steps": 1},
                    "data": {"name": "csv", "path": "a", "target": "b", "scaling": "none"},
                },
                "data.labels",
                "one record may not decide which classes there are",
            )
            for privacy in (PRIVATE | {"expected_batch": 5}, {"unit": "client"})
        ),
        ({"data": {"name": "csv"}}, "data.path", "needed"),
        ({"data": {"name": "csv", "shape": "3"}}, "data.labels", "needed"),
        ({"data": {"name": "csv", "labels": "a,b"}}, "data.columns", "needed"),
        ({"data": {"columns": "a,b", "drop": "c"}}, "data.drop", "must be empty"),
        ({"data": {"columns": "a", "dates": "b"}}, "data.dates", "features, got 'b'"),
        ({"data": {"drop": "a", "ranges": "a 0:1"}}, "data.ranges", "features, got 'a'"),
        (
            {"data": {"categories": "a: x, y", "ranges": "a 0:1"}},
            "data.ranges",
            "no column of data.categories",
        ),
        ({"data": {"ranges": "a 1:0"}}, "data.ranges", "LOW < HIGH"),
        ({"data": {"categories": "a"}}, "data.categories", "two or more values"),
        ({"data": {"name": "csv", "path": "a"}}, "data.target", "needed"),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "data": {"name": "csv", "shape": "3", "labels": "a,b", "scaling": "none"},
            },
            "privacy.expected_batch",
            "must be set when privacy.unit is record",
        ),
        ({"data": {"test_fraction": 0.2, "fold": 5}}, "data.fold", "less than 5"),
        ({"downlink": {"error_feedback": False}}, "downlink.error_feedback", "must be true"),
        ({"downlink": {"aggregate_feedback": 0.5}}, "downlink.aggregate_feedback", "must be 0"),
        (
            {"uplink": {"compressor": "randk", "values": "sign"}},
            "uplink.values",
            "must be fp16 or fp32",
        ),
    ],
)
def test_rules_between_keys(tables: dict[str, Any], key: str, rule: str) -> None:
    text = refusal(tables)
    assert key in text and rule in text and "got" in text


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


def test_a_file_without_a_name_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[federation]\nrounds = 2\n")
    assert load(path).federation == Federation(name="mine", rounds=2)
    changed = load(path, ["federation.rounds=5", "data.partition = dirichlet", "data.alpha=1"])
    assert changed.federation.rounds == 5
    assert changed.data.partition == "dirichlet"
    assert changed.data.alpha == 1.0


@pytest.mark.parametrize(
    ("content", "overrides", "expected"),
    [
        (None, [], "no such scenario file"),
        (b"[federation\n", [], "cannot be read as TOML"),
        (b"\xff\xfe", [], "cannot be read as TOML"),
        (b"", ["federation.rounds"], "must be section.key=value"),
        (b"", ["rounds=3"], "must be section.key=value"),
        (b"federation = 3\n", ["federation.rounds=3"], "must be a table"),
        (b"", ["federation.rounds=many"], "must be a whole number, got 'many'"),
        (b"", ["federation.rounds=0x2"], "must be a whole number, got '0x2'"),
        (b"", ["uplink.density=0b1"], "must be a number, got '0b1'"),
        (b"", ["data.shape=0x2"], "must be empty, or sizes such as 6x100, got '0x2'"),
        (b"", ["federation.rouns=1"], "did you mean rounds?"),
    ],
)
def test_files_and_overrides_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, overrides: list[str], expected: str
) -> None:
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScenarioError, match=expected.replace("?", r"\?")):
        load(path, overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("federation.name=42", "42"),
        ("federation.name=1.0", "1.0"),
        ("federation.name=true", "true"),
        ("federation.name=0x2", "0x2"),
        ("federation.name=2024-01-02", "2024-01-02"),
        ('federation.name="42"', "42"),
        ("federation.name='a b'", "a b"),
        ("data.shape=16", "16"),
        ("data.target=2024", "2024"),
        ("data.target= 007 ", "007"),
        ("data.path=[1].csv", str(Path.cwd() / "[1].csv")),
        ("data.labels=0, 1", "0, 1"),
    ],
)
def test_a_key_that_holds_text_takes_it_as_it_stands(
    tmp_path: Path, override: str, value: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[data]\nname = 'csv'\npath = 'a.csv'\ntarget = 'y'\n")
    section, _, key = override.partition("=")[0].partition(".")
    assert getattr(getattr(load(path, [override]), section), key) == value


def test_a_file_is_held_to_the_types_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[federation]\nname = 42\n")
    with pytest.raises(ScenarioError, match=r"federation\.name: must be a string, got 42"):
        load(path)


@given(st.integers(1, 1000), st.integers(1, 100))
def test_the_asked_share_is_rounded_up_exactly(sites: int, percent: int) -> None:
    asked = Federation(sites=sites, participation=percent / 100).participants
    assert asked == max(1, math.ceil(Fraction(percent, 100) * sites))


@pytest.mark.parametrize(
    ("tables", "compressor"),
    [
        ({"federation": {"sites": 20}}, "rotated-topk"),
        ({"federation": {"sites": 20, "participation": 0.25}}, "rotated-topk"),
        ({"federation": {"sites": 20, "participation": 0.05}}, "topk"),
        ({"federation": {"sites": 3}}, "rotated-topk"),
        ({"federation": {"sites": 20, "update_norm": 1.0}}, "topk"),
        ({"federation": {"sites": 20}, "training": {"steps": 1}, "privacy": PRIVATE}, "topk"),
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


def test_the_compressors_that_can_be_unbiased_are_known() -> None:
    from fedlite.compression.compressor import COMPRESSORS, Settings
    from fedlite.scenario.links import _UNBIASED

    able = {name for name, build in COMPRESSORS.items() if hasattr(build(Settings()), "unbiased")}
    assert able == set(_UNBIASED)


def test_dense_needs_no_word_on_error_feedback_where_the_server_clips() -> None:
    privacy = {"unit": "client", "noise_at": "server"}
    scenario = from_dict({"uplink": {"compressor": "dense"}, "privacy": privacy})
    assert scenario.uplink.error_feedback is False


def test_records_at_the_sites_only_are_described_by_shape_and_labels() -> None:
    data = from_dict({"data": {"name": "csv", "shape": "6x100", "labels": "no, 1 ,ja"}}).data
    assert data.at_sites and data.sizes == (6, 100) and data.class_names == ("no", "1", "ja")
    data = from_dict({"data": {"name": "csv", "path": "a.csv", "target": "y"}}).data
    assert not data.at_sites and data.sizes == () and data.class_names == ()
    assert not Scenario().data.at_sites


PATHS_OF_A_RUN = """
[data]
name = "csv"
path = "tables/own.csv"
target = "y"
[simulation]
sites = "~/homes"
witness = "/var/seen.jsonl"
"""


def test_paths_start_at_the_scenario_and_those_of_overrides_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All started where the command ran, so that a run could go on from there only."""
    study, home, here = tmp_path / "study", tmp_path / "home", tmp_path / "here"
    for folder in (study, home, here):
        folder.mkdir()
    (study / "s.toml").write_text(PATHS_OF_A_RUN)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for named in (study / "s.toml", Path("../study/s.toml")):
        found = load(named)
        assert found.data.path == str(study / "tables" / "own.csv")
        assert found.simulation.sites == str(home / "homes")
        assert found.simulation.witness == "/var/seen.jsonl"
        changed = load(named, ["data.path=own.csv", "simulation.witness=w"])
        assert changed.data.path == str(here / "own.csv")
        assert changed.simulation.witness == str(here / "w")
    (study / "again.toml").write_text(found.to_toml())
    monkeypatch.chdir(home)
    assert load(study / "again.toml") == found


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
