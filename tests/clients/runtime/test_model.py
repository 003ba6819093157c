"""`site model`: what a site's operator gets is the model that the coordinator has released."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from typer.testing import CliRunner

from clients import app as client, final
from clients.runtime import runbook, seats, setup
from clients.runtime.gate import ApprovedRun
from clients.runtime.status import Answered
from fedlite import flower
from fedlite.commands.main import app
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.messages import Hello, Instruction, site_id
from fedlite.models.files import read_vector
from fedlite.parameters import vector_digest
from fedlite.scenario import from_dict
from server import broadcast
from tests.clients.deployed import open_deployed_site
from tests.clients.runtime.test_setup import invitation, invite

RUN = "ab" * 8
PLAN = from_dict(
    {
        "federation": {"name": "study", "rounds": 3, "sites": 2, "deliver": True},
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "privacy": {"unit": "record", "epsilon": 1.0, "expected_batch": 20},
    }
)


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", *map(str, words)])
    return result.exit_code, result.output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site that has answered a run."""
    home = tmp_path / "home"
    setup.init(home, "site-01", data=DataSet("digits", "digits"))
    one = invitation("clinic net")
    setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    bundle: Any = SimpleNamespace(sha256="0" * 64)
    approved = ApprovedRun(
        bundle, PLAN.to_run_config() | {"run.id": RUN}, policy.load(home / "site.toml")
    )
    note = Answered(RUN, "study", "1", 0.1, 5, 5, "sent")
    runbook.note(home, seats.every(home)[0], approved, note, update=True)
    return home


@pytest.mark.parametrize("lets", [True, False])
def test_the_model_that_was_released_is_the_one_that_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lets: bool
) -> None:
    scenario = PLAN if lets else from_dict(json.loads(json.dumps(PLAN.to_dict()))
                                           | {"federation": PLAN.to_dict()["federation"]
                                              | {"deliver": False}})  # fmt: skip
    site = open_deployed_site(scenario, home, RUN)
    released = site.plan.initial + np.float32(0.25)
    frame = broadcast.full(released, 4, site.plan.layout.digest, bytes.fromhex(RUN))
    asked = Instruction(
        bytes.fromhex(RUN), 4, site_id("site-01"), 0, vector_digest(released), (frame,)
    )
    monkeypatch.setattr(client, "_site", lambda context: site)
    flower.identify(1, 2)
    question = flower.ask(asked.encode(), 2, "query", "model")
    flower.set_message_id(question, "q")
    reply: Message = client.app(question, SimpleNamespace(node_config={}, run_config={}))  # type: ignore[arg-type]
    # All that leaves is a hello, and no row is written.
    assert Hello.decode(flower.unwrap(reply)).site == "site-01"
    assert not list((home / "ledgers").glob("*.jsonl"))
    out = tmp_path / "model"
    code, output = run("model", home, "study", "--out", out)
    if not lets:
        assert code == 2 and "federation.deliver = true" in output and not out.exists()
        return
    assert code == 0 and "parameters of 'study'" in output and "without privacy" not in output
    assert read_vector(out, site.plan.layout).tobytes() == released.tobytes()
    described = json.loads((out / "model.json").read_text())
    assert described["name"] == "mlp" and described["layout"] == site.plan.layout.digest.hex()
    code, output = run("model", home, RUN, "--out", out)
    assert code == 2 and "never overwritten" in output
    assert run("model", home, RUN, "--out", tmp_path / "again", "--json")[0] == 0


def test_what_is_not_there_is_told_with_what_is(home: Path, tmp_path: Path) -> None:
    code, output = run("model", home, "study", "--out", tmp_path / "m")
    assert code == 2 and "to this site: none; got 'study'" in output
    folder = home / "state" / RUN
    folder.mkdir(parents=True)
    (folder / final.FILE).write_bytes(b"")
    code, output = run("model", home, "other", "--out", tmp_path / "m")
    assert code == 2 and f"{RUN} (study)" in output
    code, output = run("model", home, "study", "--out", tmp_path / "m")
    assert code == 2 and "is damaged" in output and not (tmp_path / "m").exists()
    # Approved code may have left a link to a file that only the operator may read.
    (folder / final.FILE).unlink()
    (folder / final.FILE).symlink_to(home / "keys" / "node.pem")
    assert run("model", home, "study", "--out", tmp_path / "m")[0] != 0
    assert not (tmp_path / "m").exists()


def test_code_that_was_sent_is_not_run_to_write_a_model(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "state" / RUN
    folder.mkdir(parents=True)
    (folder / final.FILE).write_bytes(b"")
    (told,) = (one for one in runbook.read(home) if one["run"] == RUN)
    told["settings"]["model.name"] = "own/mine.py:make"
    monkeypatch.setattr(runbook, "read", lambda home: [told])
    trap = tmp_path / "own" / "mine.py"
    trap.parent.mkdir()
    trap.write_text(f"open({str(tmp_path / 'SPRUNG')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    code, output = run("model", home, "study", "--out", tmp_path / "m")
    assert code == 2 and "model.name: must be fedlite's own" in output and "sandbox" in output
    assert not (tmp_path / "SPRUNG").exists()
