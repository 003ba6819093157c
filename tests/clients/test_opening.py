"""A deployed site: its own file, policy and ledger, from a folder that only its operator writes.

Covers fedlite/guard/records.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.opening import at_once, forget, open_simulated_site, state_directory
from clients.site import Site
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.policy_file import write
from fedlite.identity import keys
from fedlite.messages import Code, Instruction, site_id
from fedlite.models import build
from fedlite.parameters import Layout, vector_digest
from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario, ScenarioError, from_dict, with_values
from tests.clients.deployed import open_deployed_site

RUN = "00112233aabbccdd"
NONE: dict[str, Any] = {"unit": "none"}
RECORD = {"unit": "record", "epsilon": 2.0, "delta": 1e-3, "expected_batch": 10}


def plan(privacy: dict[str, Any] = NONE, **data: Any) -> Scenario:
    """A federation whose records are at the sites only, unless `data` names a path."""
    own = {"name": "csv", "shape": "3", "labels": "no,maybe,yes", "scaling": "none"}
    return from_dict(
        {
            "federation": {"rounds": 2, "sites": 3},
            "data": own | {"test_fraction": 0.0} | data,
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": privacy,
        }
    )


def table(path: Path, classes: tuple[str, ...] = ("no", "maybe", "yes")) -> Path:
    rng = np.random.default_rng(0)
    rows = ["a,site,b,c,ill"]
    for n in range(60):
        a, b, c = rng.normal(size=3)
        rows.append(f"{a:.4f},h{n % 3},{b:.4f},{c:.4f},{classes[n // 3 % len(classes)]}")
    path.write_text("\n".join(rows) + "\n")
    return path


def home(path: Path, **more: Any) -> Path:
    """A site's folder as `fedlite site init` leaves it, with a file of its own."""
    path.mkdir(parents=True)
    keys.generate(path / "keys" / "ledger.pem")
    chosen = DataSet("csv", "csv", path="own.csv", target="ill", records_at_most=100)
    policy = {"site": "north", "epsilon": 3.0, "delta": 1e-3, "units": ("record", "none")}
    write(path / "site.toml", SitePolicy(**(policy | {"data": (chosen,)} | more)))
    table(path / "own.csv")
    return path


def train(site: Site) -> bytes:
    model = vector_digest(site.learner.initial)
    instruction = Instruction(bytes.fromhex(RUN), 1, site_id(site.name), 0, model, ())
    return site.take_part(instruction).frame


def test_the_records_are_those_of_the_file_that_the_operator_names(tmp_path: Path) -> None:
    place = home(tmp_path / "h")
    site = open_deployed_site(plan(), place, RUN)
    lines = [line.split(",") for line in (place / "own.csv").read_text().splitlines()[1:]]
    expected = {tuple(np.float32([a, b, c]).tolist()): ill for a, _, b, c, ill in lines}
    labels = ("no", "maybe", "yes")
    assert site.name == "north" and len(site.learner.labels) == 60
    for row, label in zip(site.learner.inputs, site.learner.labels, strict=True):
        assert expected[tuple(row.tolist())] == labels[int(label)]
    assert train(site)
    assert site.path == place / "state" / RUN / "state.safetensors" and site.path.exists()
    assert not (place / "ledgers").exists(), "nothing was spent"


def test_a_private_run_is_written_into_the_sites_own_ledger(tmp_path: Path) -> None:
    place = home(tmp_path / "h")
    site = open_deployed_site(plan(RECORD), place, RUN)
    assert site.unit == "record" and len(site.commitment) == 64
    assert train(site)
    rows = read(place / "ledgers" / "csv.jsonl")
    kinds = [row.kind for row in rows]
    assert kinds[0] == "genesis" and "reserve" in kinds and kinds.count("release") == 1
    own = keys.load(place / "keys" / "ledger.pem").public_key().public_bytes_raw().hex()
    assert own in rows[0].line.decode()


def test_a_class_that_a_site_never_saw_keeps_its_number(tmp_path: Path) -> None:
    place = home(tmp_path / "h")
    table(place / "own.csv", ("no", "yes"))
    site = open_deployed_site(plan(), place, RUN)
    assert sorted(set(site.learner.labels.tolist())) == [0, 2]
    server = Layout.of(build("mlp", (3,), 3, seed=plan().federation.seed))
    assert site.learner.layout.digest == server.digest
    assert train(site)
    table(place / "own.csv", ("no", "perhaps"))
    with pytest.raises(ValueError, match=r"must be one of no, maybe, yes, got 'perhaps'"):
        open_deployed_site(plan(), place, RUN)


def test_a_named_part_is_what_the_simulated_site_has(tmp_path: Path) -> None:
    place = home(
        tmp_path / "h", data=(DataSet("csv", "csv", part="h1", path="own.csv", target="ill"),)
    )
    natural = plan(partition="natural", test_fraction=0.2)
    here = with_values(natural, "data", path=str(place / "own.csv"), target="ill")
    deployed = open_deployed_site(natural, place, RUN)
    simulated = open_simulated_site(here, 1, tmp_path / "simulated")
    assert (deployed.name, simulated.name) == ("north", "h1")
    assert len(deployed.learner.labels) == 16
    deltas = [
        site.learner.delta(site.learner.initial, 1, 5, None) for site in (deployed, simulated)
    ]
    assert deltas[0].any()
    np.testing.assert_array_equal(*deltas)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    place = home(
        tmp_path / "h", data=(DataSet("csv", "csv", part="h9", path="own.csv", target="ill"),)
    )
    with pytest.raises(ValueError, match=r"data\.csv\.part: must be one of h0, h1, h2, got 'h9'"):
        open_deployed_site(plan(partition="natural"), place, RUN)


def test_without_a_table_nothing_answers_the_scenario(tmp_path: Path) -> None:
    place = home(tmp_path / "h", data=())
    with pytest.raises(Decline, match=r"has no \[data\.csv\]") as caught:
        open_deployed_site(plan(), place, RUN)
    assert caught.value.code is Code.POLICY
    # Nor does a path that the server names.
    with pytest.raises(Decline):
        open_deployed_site(plan(path=str(place / "own.csv"), target="ill"), place, RUN)


@pytest.mark.parametrize("run", ["", "00112233AABBCCDD", "../../../../etc/x", RUN + "0"])
def test_what_is_no_run_id_names_no_folder(tmp_path: Path, run: str) -> None:
    place = home(tmp_path / "h")
    with pytest.raises(ScenarioError, match=r"run\.id: must be 16 lower-case hex digits, got"):
        open_deployed_site(plan(), place, run)
    assert not (place / "state").exists()


@pytest.mark.parametrize(("section", "refuse"), [(RECORD, False), (NONE, True)])
def test_the_policy_and_not_the_server_says_what_unit_is_enough(
    tmp_path: Path, section: dict[str, Any], refuse: bool
) -> None:
    site = open_deployed_site(plan(section), home(tmp_path / "h", units=("record",)), RUN)
    if not refuse:
        assert train(site)
        return
    with pytest.raises(Decline, match=r"budget\.units") as caught:
        train(site)
    assert caught.value.code is Code.POLICY


def test_a_batch_that_is_not_settled_is_refused(tmp_path: Path) -> None:
    # For a source of the catalogue it may be left open; the site would fill in its own size.
    digits = from_dict(
        {"training": {"steps": 1}, "privacy": RECORD | {"expected_batch": 0, "delta": 1e-5}}
    )
    place = home(tmp_path / "h", data=(DataSet("digits", "digits"),))
    with pytest.raises(ScenarioError, match=r"privacy\.expected_batch: must be settled"):
        open_deployed_site(digits, place, RUN)
    assert not (place / "state").exists()


PEOPLE = "name,sex,age,ill\n" + "".join(
    f"n{n},{'mf'[n % 2]},{20 + 2 * n},{('no', 'maybe', 'yes')[n % 3]}\n" for n in range(60)
)


@pytest.mark.parametrize("privacy", [NONE, RECORD])
def test_the_scenario_says_what_the_columns_of_every_site_s_file_are(
    tmp_path: Path, privacy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"shape": "", "columns": "age, sex", "categories": "sex: f, m"}
    scenario = plan(privacy, **settings, ranges="age 0:100")
    assert scenario.data.sizes == (3,)
    inputs = []
    for number, text in enumerate((PEOPLE, PEOPLE.replace("name,sex,age", "id,sex,age"))):
        place = home(tmp_path / str(number))
        (place / "own.csv").write_text(text)
        site = open_deployed_site(scenario, place, RUN)
        inputs.append(np.asarray(site.learner.inputs))
        assert train(site)
    assert np.array_equal(*inputs) and inputs[0].shape == (60, 3)
    assert inputs[0][0].tolist() == [pytest.approx(-0.6), 0.0, 1.0]
    # 18 of them are above 100: a matter for the site's own log.
    assert "column 'age': 19 of 60 values lie beyond" in caplog.text


def test_no_site_finds_out_by_its_records_what_its_columns_are(tmp_path: Path) -> None:
    """One file's values would make another model than the next one's."""
    place = home(tmp_path / "h")
    (place / "own.csv").write_text(PEOPLE.replace("name,sex", "code,sex"))
    with pytest.raises(ValueError, match=r"'sex': a feature must be.*data.categories"):
        open_deployed_site(plan(shape="2", drop="code"), place, RUN)


def test_state_lies_beside_the_run_which_every_machine_must_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    for elsewhere in ({}, {"run.directory": ""}, {"run.directory": "runs/one"}):
        assert state_directory(elsewhere, 17) == tmp_path / "home/fedlite/0000000000000011"
    here = {"run.directory": str(tmp_path / "one")}
    with pytest.raises(ScenarioError, match=r"run.directory: .* all machines share"):
        state_directory(here, 17)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "scenario.toml").touch()
    assert state_directory(here, 17) == tmp_path / "one/checkpoint/fedlite/0000000000000011"


def test_before_anybody_has_trained_as_many_are_asked_as_may_be() -> None:
    """A resumed run begins with frames that it sends again, by which nothing is found out."""
    forget()
    assert at_once(64) == 64
