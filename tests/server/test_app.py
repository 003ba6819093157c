"""A whole run in a deployment whose coordinator holds no records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from typer.testing import CliRunner

from clients import app as client
from fedlite import flower
from fedlite.commands.main import app as command
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.policy_file import write
from fedlite.identity import keys
from fedlite.reporting.record import read_rounds, read_summary
from fedlite.scenario import Scenario, from_dict
from server.app import Task, run_scenario
from server.deployment import Deployment
from tests.clients.deployed import open_deployed_site

RUN = "00112233aabbccdd"
SITES = ("north", "south")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    client._open.clear()
    yield
    client._open.clear()


def plan(**tables: Any) -> Scenario:
    data = {"name": "csv", "shape": "4", "labels": "no,yes", "scaling": "none"}
    return from_dict(
        {
            "federation": {"name": "far", "rounds": 2, "sites": 2, "quorum": 2},
            "data": data | {"test_fraction": 0.0},
            "model": {"name": "mlp"},
            # As `submit` hands a scenario out: nothing is left open, so both ends plan alike.
            "uplink": {"compressor": "dense"},
            "downlink": {"compressor": "dense"},
            "training": {"steps": 1},
        }
        | tables
    )


class Node:
    """A SuperNode in this process: the real ClientApp beside the guardian of a site's folder."""

    def __init__(self, number: int, home: Path, scenario: Scenario) -> None:
        self.context = Context(
            run_id=1,
            node_id=number,
            node_config={},
            state=RecordDict(),
            run_config=scenario.to_run_config() | {"run.id": RUN},
        )

        client._open[1, number, ""] = open_deployed_site(scenario, home, RUN)

    def reply(self, message: Message) -> list[Message]:
        return [client.app(message, self.context)]


@pytest.fixture
def deployed(tmp_path: Path, world: Callable[..., Any]) -> Callable[[Scenario], Path]:
    """Return what runs a scenario at two real sites; it returns the run directory."""

    def run(scenario: Scenario) -> Path:
        root, enrolled, nodes = tmp_path / "coordinator", {}, {}
        for number, name in enumerate(SITES, start=100):
            home = tmp_path / name
            key = keys.load_or_generate(home / "keys" / "ledger.pem")
            policy = SitePolicy(
                site=name,
                delta=1e-3,
                units=("record", "none"),
                data=(DataSet("csv", "csv", path="own.csv", target="ill", records_at_most=100),),
            )
            write(home / "site.toml", policy)
            rows = np.random.default_rng(number).normal(size=(40, 4)).round(3)
            lines = [
                ",".join(map(str, row)) + ("," + ("no", "yes")[int(row[0] > 0)]) for row in rows
            ]
            (home / "own.csv").write_text("a,b,c,d,ill\n" + "\n".join(lines) + "\n")
            enrolled[name] = {
                "node_id": number,
                "ledger_key": key.public_key().public_bytes_raw().hex(),
                "revoked": False,
            }
            nodes[number] = Node(number, home, scenario)
        root.mkdir()
        (root / "sites.json").write_text(json.dumps(enrolled))
        grid = world(sites=1).grid
        grid.members = nodes
        flower.identify(1, 0)
        directory, number = tmp_path / "run-directory", bytes.fromhex(RUN)
        run_scenario(
            grid, scenario, Task(directory, number, "network", deployment=Deployment(root))
        )
        return tmp_path / "run-directory"

    return run


def test_a_coordinator_without_records_trains_and_says_that_it_measured_nothing(
    deployed: Callable[[Scenario], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = deployed(plan())
    assert "no accuracy is measured: the coordinator holds no records" in capsys.readouterr().err
    rounds, summary = read_rounds(directory), read_summary(directory)
    assert [(r.accepted, r.accuracy, r.auc) for r in rounds] == [(2, {}, {})] * 2
    assert summary["accuracy"] == {"by_site": {}} and "auc" not in summary
    assert summary["sites"] == list(SITES) and summary["data"]["at_sites"] is True
    described = json.loads((directory / "model.json").read_text())
    assert described["shape"] == [4] and described["classes"] == 2
    result = CliRunner().invoke(command, ["report", str(directory)])
    assert result.exit_code == 0, result.output
    assert "no accuracy was measured: the coordinator holds no records" in result.output
    page = (directory / "report.html").read_text()
    assert "No accuracy was measured: the coordinator holds no records." in page
    assert "north, south" in page and "simulation" not in page


@pytest.mark.long
def test_the_ledgers_of_such_a_run_audit_clean(
    deployed: Callable[[Scenario], Path], tmp_path: Path
) -> None:
    record = {"unit": "record", "epsilon": 2.0, "delta": 1e-3, "expected_batch": 20}
    directory = deployed(plan(privacy=record))
    sites = read_summary(directory)["privacy"]["sites"]
    assert all(0 < sites[name]["epsilon"]["pld"] <= 2.0 for name in SITES)
    # What the sites hand to the auditor; the coordinator has no ledger.
    (directory / "ledgers").mkdir()
    for name in SITES:
        ledger = tmp_path / name / "ledgers" / "csv.jsonl"
        shutil.copy(ledger, directory / "ledgers" / f"{name}.jsonl")
    result = CliRunner().invoke(command, ["audit", "ledgers", str(directory)])
    assert result.exit_code == 0, result.output


def test_in_a_simulation_the_records_must_be_here(
    tmp_path: Path, world: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"data\.path: csv needs the path"):
        task = Task(tmp_path / "run-directory", bytes(8), "ray")
        run_scenario(world(sites=1).grid, plan(), task)
