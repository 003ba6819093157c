"""What `fedlite server clean` removes, and that no record of a run is among it.

Covers fedlite/commands/upkeep.py.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.deployment import bundle as bundles, journal
from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from server.coordinator import cleaning, jobs, submit
from server.coordinator.folder import Coordinator
from server.coordinator.jobs import Job
from server.coordinator.setup import init
from tests.deployment.test_retention import age


def scenario(name: str, rounds: int) -> object:
    return from_dict({"federation": {"name": name, "rounds": rounds, "sites": 2}})


def write(folder: Coordinator, name: str, state: str, rounds: int, days: float) -> str:
    """Leave a run as it is after so many days; return the name of what Flower unpacked."""
    settled = from_dict({"federation": {"name": name, "rounds": rounds, "sites": 2}})
    content = submit.build(settled, app_root())
    short = bundles.digest(content)[:8]
    bundle, run = folder.bundles / f"{name}-{short}.fab", folder.runs / name
    bundle.write_bytes(content)
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint" / "server.safetensors").write_bytes(bytes(9000))
    import tomli_w

    (run / "scenario.toml").write_text(tomli_w.dumps(settled.to_dict()))
    (run / "rounds.jsonl").write_text('{"round": 1, "accepted": 2}\n')
    app_folder = folder.flwr_home / "apps" / f"fedlite.fedlite.0.1.0.{short}"
    (app_folder / "server").mkdir(parents=True)
    (app_folder / "server" / "app.py").write_text("# code")
    places = {"bundle": f"bundles/{bundle.name}", "directory": f"runs/{name}"}
    jobs.save(folder, Job(name=name, run_id="1" * 16, state=state, **places))
    for path in (bundle, run, app_folder, folder.jobs / f"{name}.json"):
        age(path, days)
    return app_folder.name


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "c", "study", "h:1")


def names(made: Coordinator, *words: object) -> set[str]:
    result = CliRunner().invoke(
        app, ["server", "clean", str(made.path), *map(str, words), "--json"]
    )
    assert result.exit_code == 0, result.output
    return {
        str(Path(one["path"]).relative_to(made.path))
        for one in json.loads(result.stdout)["removed"]
    }


def test_what_runs_leave_behind_goes_and_their_record_stays(made: Coordinator) -> None:
    old = write(made, "old", "finished", 3, 40)
    dead = write(made, "dead", "failed", 4, 40)
    write(made, "going", "running", 5, 40)
    write(made, "new", "finished", 6, 2)
    (made.logs / "gateway.log.1").write_text("x")
    (made.logs / "gateway.log").write_text("x")
    (made.logs / "refusals.jsonl").write_text("x")
    (made.logs / "refusals.jsonl.1").write_text("x")
    age(made.logs, 40)
    short = {name: found.rpartition(".")[2] for name, found in {"old": old, "dead": dead}.items()}
    wanted = {f"bundles/{name}-{short[name]}.fab" for name in short}
    wanted |= {f"runs/{name}/checkpoint" for name in short}
    wanted |= {f"flwr/apps/{old}", f"flwr/apps/{dead}", "logs/gateway.log.1"}
    wanted |= {"logs/refusals.jsonl.1"}
    assert names(made, "--dry-run") == wanted
    assert names(made) == wanted
    assert names(made) == set()
    for name in ("old", "dead"):
        left = sorted(p.name for p in (made.runs / name).iterdir())
        assert left == ["rounds.jsonl", "scenario.toml"]
    assert (made.runs / "going" / "checkpoint" / "server.safetensors").exists()
    assert len(list((made.flwr_home / "apps").iterdir())) == 2
    (line,) = [row for row in journal.read(made.audit) if row["action"] == "clean"]
    assert line["removed"] == len(wanted) and "runs/old/checkpoint" in line["what"]


def test_status_still_tells_of_a_run_that_was_cleaned(made: Coordinator) -> None:
    write(made, "old", "finished", 3, 40)
    names(made)
    (run,) = submit.overview(made)["runs"]
    assert (run["rounds"], run["round"], run["reason"]) == (3, 1, "")


def test_a_run_that_was_cleaned_cannot_be_resumed_from_nothing(made: Coordinator) -> None:
    write(made, "dead", "failed", 4, 40)
    names(made)
    with pytest.raises(ValueError, match="cleaned away; submit the scenario anew"):
        jobs.resume(made, "dead")
    assert jobs.load(made, "dead").state == "failed"


def test_a_run_resumed_meanwhile_keeps_everything(made: Coordinator) -> None:
    write(made, "dead", "failed", 4, 40)
    found = list(cleaning.leftovers(made, 30))
    jobs.resume(made, "dead")
    removed, kept = cleaning.remove(found)
    assert [one.path.name for one in removed] == [found[-1].path.name]  # Flower's copy
    assert len(kept) == 2 and all("goes on again" in line for line in kept)


def test_two_runs_of_one_bundle_keep_it_for_the_one_that_may_go_on(made: Coordinator) -> None:
    write(made, "a", "finished", 3, 40)
    first = jobs.load(made, "a")
    (made.runs / "b" / "checkpoint").mkdir(parents=True)
    jobs.save(made, replace(first, name="b", directory="runs/b", state="stopped"))
    assert names(made) == {"runs/a/checkpoint"}


def test_a_job_that_cannot_be_read_lets_nothing_go(made: Coordinator) -> None:
    write(made, "old", "finished", 3, 40)
    (made.jobs / "odd.json").write_text("nonsense")
    then = time.time() - 40 * 86400
    os.utime(made.jobs / "odd.json", (then, then))
    result = CliRunner().invoke(app, ["server", "clean", str(made.path)])
    assert result.exit_code == 2 and "odd.json" in result.stderr
    assert (made.runs / "old" / "checkpoint").is_dir()
