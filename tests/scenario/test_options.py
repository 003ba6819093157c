"""Tables of options: how they are written, kept, passed on and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedlite.plan import of
from fedlite.scenario import OPTIONS, from_dict, from_run_config, load, with_values
from fedlite.settings import read_options, write_options
from tests.scenario.tables import refusal

PLAIN = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.booleans(),
)  # fmt: skip
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(st.dictionaries(NAMES, st.one_of(PLAIN, st.lists(PLAIN, max_size=4)), max_size=4))
def test_any_options_survive_toml_and_run_config(options: dict[str, Any]) -> None:
    import tomllib

    scenario = from_dict({"model": {"name": "mlp", "options": options}})
    assert read_options(scenario.model.options) == options
    assert hash(scenario) == hash(from_dict(scenario.to_dict()))
    for again in (
        from_dict(tomllib.loads(scenario.to_toml())),
        from_run_config(scenario.to_run_config()),
    ):
        assert again == scenario
    assert set(map(type, scenario.to_run_config().values())) <= {str, int, float, bool}


def test_the_order_of_options_makes_no_other_scenario() -> None:
    one = from_dict({"model": {"options": {"a": 1, "b": [True]}}})
    assert one == from_dict({"model": {"options": '{"b": [true], "a": 1}'}})
    assert from_dict({"model": {"options": {}}}).model.options == ""


@pytest.mark.parametrize(
    "given",
    [
        3, [1], "3", "[1]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": null}', '{"a": {"b": 1}}',
        '{"a": [[1]]}', "[" * 100_000, {"a-b": 1}, {"a": float("inf")}, {"a": {"b": 1}}, {"ä": 1},
        {"a": None}, {"": 1}, True,
    ],
)  # fmt: skip
def test_what_is_no_table_of_options_is_refused(given: Any) -> None:
    text = refusal({"model": {"options": given}})
    assert text.startswith("model.options: must be a table of finite numbers, text,")
    assert "for example [model.options] rate = 0.5" in text and len(text) < 500


def test_options_are_not_endless() -> None:
    assert "at most 10000 characters" in refusal({"model": {"options": {"a": "x" * 10_000}}})
    with pytest.raises(ValueError, match="must be a table"):
        write_options(None)


FILE = """
[model]
name = "mlp"
[model.options]
hidden = 8
[federation.strategy_options]
rate = 0.5
[uplink.options]
sizes = [1, 2]
"""


def test_an_override_replaces_one_option(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FILE)
    found = load(path, ["model.options.hidden=64", "uplink.options.name = a b"])
    assert read_options(found.model.options) == {"hidden": 64}
    assert read_options(found.uplink.options) == {"sizes": [1, 2], "name": "a b"}
    assert read_options(found.federation.strategy_options) == {"rate": 0.5}
    again = tmp_path / "again.toml"
    again.write_text(found.to_toml())
    assert load(again) == found
    changed = load(again, ["model.options.hidden=[3, 4]", 'uplink.options={"sizes": [7]}'])
    assert read_options(changed.model.options) == {"hidden": [3, 4]}
    assert read_options(changed.uplink.options) == {"sizes": [7]}
    assert read_options(load(path, ["model.options={hidden = 5}"]).model.options) == {"hidden": 5}


def test_a_house_model_takes_its_options_and_refuses_others() -> None:
    tables: dict[str, Any] = {"model": {"name": "mlp", "options": {"hidden": 5}}}
    scenario = from_dict(tables)
    wider = with_values(scenario, "model", options={"hidden": 6})
    plain = with_values(scenario, "model", options={})
    sizes = [of(one, (4,), 2).layout.size for one in (scenario, wider, plain)]
    assert sizes == sorted(set(sizes))
    for options, message in (
        ({"hiden": 5}, r"model.options.hiden: .*'mlp'.*did you mean hidden\?"),
        ({"hidden": "5"}, r"model.options.hidden: must be a whole number, as 'mlp' says, got '5'"),
    ):
        with pytest.raises(ValueError, match=message):
            of(with_values(scenario, "model", options=options), (4,), 2)
    link = from_dict({"uplink": {"compressor": "topk", "options": {"x": 1}}})
    with pytest.raises(ValueError, match=r"^uplink.options.x: .*'topk'.*takes none"):
        of(link, (4,), 2)


def test_every_kind_of_thing_has_a_table_of_options() -> None:
    assert {
        ("federation", "strategy_options"),
        ("data", "options"),
        ("data", "partition_options"),
        ("model", "options"),
        ("uplink", "options"),
        ("downlink", "options"),
    } <= set(OPTIONS)
