"""Whether a private site answers, and with which code, does not hang on its records.

What is seen outside of a round is a reply or a code. Every test here plays whole sites on tables
that used to be refused, and on tables that differ in one row.

Covers fedlite/guard/declared.py.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from clients.opening import open_simulated_site
from clients.site import Site
from fedlite import plan as plans
from fedlite.guard.declared import beyond_declared, most_records
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.policy_file import write
from fedlite.identity import keys
from fedlite.messages import Code, Instruction, site_id
from fedlite.models import Branched, registry
from fedlite.parameters import vector_digest
from fedlite.scenario import Scenario, from_dict, with_values
from simulations.run import check
from tests.clients.deployed import open_deployed_site

RUN = "00112233aabbccdd"
RECORD = {"unit": "record", "epsilon": 2.0, "expected_batch": 10}
AT_SITE = {"unit": "client", "epsilon": 2.0}
AT_SERVER = AT_SITE | {"noise_at": "server"}
UNITS: list[dict[str, Any]] = [RECORD, AT_SITE, AT_SERVER]
GOOD = "0.1,0.2,0.3,h0,no"
TABLES = {
    "no record": [],
    "one record": [GOOD],
    "one class": [GOOD, "0.3,0.1,0.2,h0,no", "0.3,0.2,0.1,h0,no"],
    "one record of a class": [GOOD, "0.3,0.1,0.2,h0,no", "0.3,0.2,0.1,h0,yes"],
    "fewer records than folds": [GOOD, "0.3,0.1,0.2,h0,yes"],
    "no row of its part": ["0.3,0.1,0.2,h1,yes", "0.3,0.1,0.4,h1,no"],
    "a part more": [GOOD, "0.3,0.1,0.2,h9,yes"],
    "a label of no class": [GOOD, "0.3,0.1,0.2,h0,perhaps"],
    "no label": [GOOD, "0.3,0.1,0.2,h0,"],
    "no number": [GOOD, "0.3,high,0.2,h0,yes"],
    "too few cells": [GOOD, "0.3,0.1,0.2,h0"],
    "no name of a site": [GOOD, "0.3,0.1,0.2,../h0,yes"],
    "an open quote": [GOOD, '"0.1,0.2,0.3,h0,no', GOOD],
    "no CSV": [GOOD, '0.1,0.2,0.3,h0,"n"o'],
    "a huge cell": [GOOD, "0" * 200_000 + ",0.2,0.3,h0,no"],
    "no UTF-8": [GOOD, "0.1,0.2,0.3,h0,n\udcf4"],
    "a huge number": [GOOD, "3e38,-3e38,0.2,h0,yes"],
}


# Without privacy these are not refused either.
USUAL = {
    "a huge number",
    "a part more",
    "fewer records than folds",
    "one class",
    "one record",
    "one record of a class",
}


def plan(privacy: dict[str, Any], **data: Any) -> Scenario:
    own = {"name": "csv", "shape": "3", "labels": "no,maybe,yes", "scaling": "none"}
    return from_dict(
        {
            "federation": {"rounds": 2, "sites": 3},
            "data": own | {"test_fraction": 0.5, "partition": "natural"} | data,
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": privacy,
        }
    )


def home(path: Path, rows: list[str], **more: Any) -> Path:
    path.mkdir(parents=True)
    keys.generate(path / "keys" / "ledger.pem")
    table = {"name": "csv", "source": "csv", "path": "own.csv", "target": "ill", "part": "h0"}
    chosen = DataSet(**(table | more))
    units = ("record", "client-site", "client-server", "none")
    policy = SitePolicy(site="north", epsilon=3.0, delta=1e-5, units=units, data=(chosen,))
    write(path / "site.toml", policy)
    text = "\n".join(["a,b,c,site,ill", *rows]) + "\n"
    (path / "own.csv").write_bytes(text.encode(errors="surrogateescape"))
    return path


def train(site: Site) -> bytes:
    model = vector_digest(site.learner.initial)
    instruction = Instruction(bytes.fromhex(RUN), 1, site_id(site.name), 0, model, ())
    return site.take_part(instruction).frame


@pytest.mark.parametrize("privacy", UNITS, ids=["record", "client-site", "client-server"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_private_site_answers_whatever_is_in_its_table(
    tmp_path: Path, name: str, privacy: dict[str, Any], fraction: float
) -> None:
    asked = plan(privacy, test_fraction=fraction)
    site = open_deployed_site(asked, home(tmp_path / "h", TABLES[name]), RUN)
    other = open_deployed_site(asked, home(tmp_path / "other", [GOOD] * 3), RUN)
    assert replace(site.hello(), head=None) == replace(other.hello(), head=None)
    assert train(site)


@pytest.mark.parametrize("name", sorted(set(TABLES) - USUAL))
def test_without_privacy_the_same_tables_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """So the test above is not one of tables that were good all along."""
    with pytest.raises(ValueError, match=r"h0|site|classes|label|must"):
        open_deployed_site(plan({"unit": "none"}), home(tmp_path / "h", TABLES[name]), RUN)


def test_the_log_of_the_site_names_what_counts_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedlite.site"):
        place = home(tmp_path / "h", TABLES["no number"])
        site = open_deployed_site(plan(RECORD, test_fraction=0.0), place, RUN)
    assert len(site.learner.labels) == 1
    assert "a row counts as absent" in caplog.text and "line 3, column 'b'" in caplog.text
    with caplog.at_level(logging.WARNING, "fedlite.site"):
        open_deployed_site(plan(RECORD), home(tmp_path / "i", TABLES["no row of its part"]), RUN)
    assert "no row is of 'h0'" in caplog.text


# One that reads texts has no table.
@pytest.mark.long
@pytest.mark.parametrize("model", sorted(set(registry.names()) - {"lora", "lora-lm"}))
def test_every_model_can_be_prepared_and_trained_without_a_record(
    tmp_path: Path, model: str
) -> None:
    image = model in ("cnn", "mcmahan", "scatter", "vgg")
    shape = "1x28x28" if image else "6x100" if model == "cnn1d" else "3"
    columns = [f"f{number}" for number in range(784 if image else 600 if model == "cnn1d" else 3)]
    place = home(tmp_path / "h", [])
    (place / "own.csv").write_text(",".join([*columns, "site", "ill"]) + "\n")
    scenario = plan(RECORD, shape=shape)
    site = open_deployed_site(
        replace(scenario, model=replace(scenario.model, name=model)), place, RUN
    )
    assert train(site)


@pytest.mark.parametrize("privacy", [{"unit": "none"}, RECORD], ids=["none", "record"])
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: dict[str, Any]
) -> None:
    def build(shape: tuple[int, ...], classes: int) -> Branched:
        heads = nn.Linear(4, classes + 1), nn.Linear(4, classes)
        return Branched(nn.Linear(3, 4), *heads, shape=shape, classes=classes)

    monkeypatch.setitem(registry._HOUSE, "mlp", build)
    plans._of.cache_clear()
    asked = plan(privacy, test_fraction=0.0, labels="no,yes")
    place = home(tmp_path / "h", TABLES["one record of a class"])
    for refuse in (
        lambda: check(asked, deployed=True),
        lambda: open_deployed_site(asked, place, RUN),
    ):
        with pytest.raises(ValueError, match=r"'exit' must return outputs.*got \[2, 3\]"):
            refuse()
    plans._of.cache_clear()


def test_records_beyond_what_is_declared_neither_stop_the_site_nor_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"0.{n},0.1,0.2,h0,{'yes' if n % 2 else 'no'}" for n in range(8)]
    capped = RECORD | {"max_batch": 6, "max_records": 6}
    for declared, count in ((6, 6), (5, 5)):
        monkeypatch.setenv("FEDLITE_REGISTER", str(tmp_path / f"machine-{declared}"))
        place = home(tmp_path / f"h{declared}", rows, records_at_most=declared)
        site = open_deployed_site(plan(capped, test_fraction=0.0), place, RUN)
        assert len(site.learner.labels) == count
        assert train(site)


@pytest.mark.parametrize("most", range(1, 12))
def test_a_server_learns_nothing_from_max_records(tmp_path: Path, most: int) -> None:
    """It used to find out the number of records by asking for less and less."""
    capped = plan(RECORD | {"max_batch": most, "max_records": most}, test_fraction=0.0)
    codes = set()
    for count in (0, 3, 8, 9):
        rows = [f"0.{n},0.1,0.2,h0,no" for n in range(count)]
        place = home(tmp_path / f"h{count}", rows, records_at_most=9)
        try:
            codes.add(str(bool(train(open_deployed_site(capped, place, RUN)))))
        except Decline as decline:
            codes.add(decline.code)
    assert codes == ({"True"} if most >= 9 else {Code.POLICY})


def test_what_a_simulated_site_holds_is_cut_and_not_refused(tmp_path: Path) -> None:
    privacy = {"unit": "record", "epsilon": 2.0, "max_batch": 40, "max_records": 40}
    scenario = from_dict(
        {
            "federation": {"sites": 5, "rounds": 1},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": privacy | {"expected_batch": 30},
        }
    )
    site = open_simulated_site(scenario, 0, tmp_path)
    assert len(site.learner.labels) == 40 and train(site)


@pytest.mark.parametrize(
    ("chosen", "delta", "privacy", "missing"),
    [
        (DataSet("csv", "csv"), 1e-5, RECORD, ""),
        (DataSet("csv", "csv"), 1e-4, RECORD, "budget.delta: must be at most 1e-05.*not declared"),
        (DataSet("csv", "csv", records_at_most=9999), 1e-4, RECORD, ""),
        (DataSet("csv", "csv", records_at_most=10_000), 1e-4, RECORD, "which is 10000, got 0.0001"),
        (DataSet("csv", "csv", records_at_most=10_000), 1e-4, AT_SITE, ""),
        (DataSet("csv", "digits"), 5e-4, RECORD, ""),
        (DataSet("csv", "digits"), 6e-4, RECORD, "which is 1797"),
        (
            DataSet("csv", "csv"),
            1e-5,
            RECORD | {"max_batch": 5, "max_records": 5},
            "records_at_most: must be declared.*got not declared",
        ),
        (
            DataSet("csv", "csv", records_at_most=5),
            1e-5,
            RECORD | {"max_batch": 5, "max_records": 5},
            "",
        ),
        (
            DataSet("csv", "csv", records_at_most=6),
            1e-5,
            RECORD | {"max_batch": 5, "max_records": 5},
            "at most the plan's privacy.max_records, 5,.*got 6",
        ),
    ],
)
def test_what_a_plan_needs_is_held_against_what_is_declared(
    chosen: DataSet, delta: float, privacy: dict[str, Any], missing: str
) -> None:
    import re

    policy = SitePolicy(site="north", delta=delta, data=(chosen,))
    found = beyond_declared(policy, plan(privacy))
    assert bool(found) == bool(missing)
    assert not missing or re.search(missing, found[0])


@pytest.mark.parametrize("privacy", UNITS, ids=["record", "client-site", "client-server"])
@pytest.mark.parametrize("name", ["digits", "heart-disease", "scans"])
def test_own_records_under_a_public_name_decide_nothing_either(
    tmp_path: Path, name: str, privacy: dict[str, Any]
) -> None:
    """Such a plan used to take classes, and with them the model's layout, from the records."""
    asked = from_dict(
        {
            "federation": {"rounds": 2, "sites": 3},
            "data": {"name": name},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": privacy,
        }
    )
    rows = [f"0.{n},0.1,0.2,h0,{'yes' if n % 2 else 'no'}" for n in range(8)]
    reasons = set()
    for number, table in enumerate((rows, [*rows, "0.1,0.2,0.3,h0,maybe"], [])):
        place = home(tmp_path / f"h{number}", table, name=name, part="")
        with pytest.raises(Decline, match=r"data\.labels: must be set") as refused:
            open_deployed_site(asked, place, RUN)
        assert refused.value.code == Code.POLICY
        assert ("data.scaling" in str(refused.value)) == (privacy is RECORD)
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    public = {"labels": "no,yes", "shape": "3", "scaling": "none"}
    given = with_values(asked, "data", **public)
    assert train(open_deployed_site(given, tmp_path / "h0", RUN))


def test_a_public_source_bounds_its_own_records() -> None:
    assert most_records(DataSet("a", "heart-disease")) == 920
    assert most_records(DataSet("a", "heart-disease", records_at_most=400)) == 400
    assert most_records(DataSet("a", "csv")) == 0


@pytest.mark.long
def test_one_row_more_changes_what_is_trained_on_by_that_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.3f},{b:.3f},{c:.3f},h0,{('no', 'maybe', 'yes')[n % 3]}"
        for n, (a, b, c) in enumerate(rng.normal(size=(40, 3)))
    ]

    def kept(name: str, table: list[str]) -> list[bytes]:
        site = open_deployed_site(plan(RECORD), home(tmp_path / name, table), RUN)
        pairs = zip(site.learner.inputs.numpy(), site.learner.labels.numpy(), strict=True)
        return [x.tobytes() + y.tobytes() for x, y in pairs]

    whole, moved = kept("whole", rows), 0
    for number in range(40):
        less = kept(f"less{number}", rows[:number] + rows[number + 1 :])
        if less != whole:
            place = next(n for n, one in enumerate(whole) if n == len(less) or one != less[n])
            assert whole[:place] + whole[place + 1 :] == less
            moved += 1
    assert moved == len(whole) and 10 < moved < 30
