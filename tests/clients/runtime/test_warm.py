"""Which worker answers: the same for the same bundle and run, a fresh one otherwise.

Covers fedlite/guard/worker.py.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedlite
from clients.runtime import setup, warm
from clients.runtime.gate import ApprovedRun
from fedlite.deployment import bundle as bundles
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.guard.worker import Task
from fedlite.rooms import app_root

PROJECT = """
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
"""


class Idle:
    """Stands for a worker process."""

    def __init__(self, log: object, *, gpu: bool) -> None:
        self.gpu, self.alive, self.task = gpu, True, None
        STARTED.append(self)

    task: Task | None

    def assign(self, task: Task, limits: policy.Limits) -> None:
        assert self.task is None, "a worker serves one bundle in its life"
        self.task = task

    def close(self) -> None:
        self.alive = False


STARTED: list[Idle] = []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    setup.init(tmp_path / "home", "site-01", data=DataSet("digits", "digits"))
    monkeypatch.setattr(warm, "Worker", Idle)
    STARTED.clear()
    return tmp_path / "home"


def content() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT)
        archive.writestr("clients/app.py", "app = None\n")
    return buffer.getvalue()


CHOSEN = DataSet("digits", "digits")
BUNDLE = bundles.read(content())


def approved(home: Path, **config: Any) -> ApprovedRun:
    config = {"run.id": "00112233aabbccdd", **config}
    return ApprovedRun(BUNDLE, config, policy.load(home / "site.toml"))


def test_the_worker_that_was_started_early_answers_the_whole_run(home: Path) -> None:
    workers = warm.Workers(home, home, policy.load(home / "site.toml"))
    run = approved(home)
    first = workers.get(run, CHOSEN, 1, 7)
    assert workers.get(run, CHOSEN, 1, 7) is first and STARTED == [first]
    assert first.task is not None and (first.task.run_id, first.task.node_id) == (1, 7)
    assert (Path(first.task.folder) / "clients/app.py").read_text() == "app = None\n"
    # Of the site's folder only what the run itself remembers: no key, no ledger, no policy.
    own = [
        path for path in (*first.task.read, *first.task.write) if Path(path).is_relative_to(home)
    ]
    assert own == [str(home / "state" / "00112233aabbccdd")]
    workers.close()
    assert not first.alive


@pytest.mark.parametrize("what", ["run", "node", "settings", "death"])
def test_anything_else_is_for_a_fresh_worker(home: Path, what: str) -> None:
    workers = warm.Workers(home, home, policy.load(home / "site.toml"))
    first: Any = workers.get(approved(home), CHOSEN, 1, 7)
    first.alive = what != "death"
    settings = {"training.steps": 2} if what == "settings" else {}
    second = workers.get(
        approved(home, **settings), CHOSEN, 1 + (what == "run"), 7 + (what == "node")
    )
    assert [first, second] == STARTED and not first.alive and second.alive


def test_a_changed_policy_ends_the_one_that_waits_too(home: Path) -> None:
    workers = warm.Workers(home, home, policy.load(home / "site.toml"))
    run = approved(home)
    on_cpu = replace(run.policy, limits=replace(run.policy.limits, device="cpu"))
    os.utime(home / "site.toml", ns=(1, 1))
    second: Any = workers.get(replace(run, policy=on_cpu), CHOSEN, 1, 7)
    assert second is STARTED[1] and not STARTED[0].alive and not second.gpu
    os.utime(home / "site.toml", ns=(2, 2))
    assert workers.get(run, CHOSEN, 1, 7) is STARTED[2] and not second.alive


def test_data_that_came_or_was_replaced_is_read_by_a_fresh_worker(home: Path) -> None:
    """One that was shut in before may not open the new file; see `deployment/test_sandbox.py`."""
    own = DataSet("own", "csv", path="own.csv", target="y")
    run = approved(home)
    run = replace(run, policy=replace(run.policy, data=(own,)))
    workers = warm.Workers(home, home, run.policy)
    first: Any = workers.get(run, CHOSEN, 1, 7)
    assert workers.get(run, CHOSEN, 1, 7) is first
    (home / "own.csv").write_text("x,y\n")
    second: Any = workers.get(run, CHOSEN, 1, 7)
    assert second is not first and not first.alive
    (home / "new.csv").write_text("x,y\n")
    (home / "new.csv").replace(home / "own.csv")
    assert workers.stale(run.policy)
    third = workers.get(run, CHOSEN, 1, 7)
    assert not workers.stale(run.policy)
    assert third is not second and not second.alive
    assert workers.get(run, CHOSEN, 1, 7) is third


def start_worker(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a worker as a site's process does, in a process with this environment."""
    program = (
        "import sys; from pathlib import Path; from clients.runtime.warm import Worker, adopt, "
        "WorkLog; adopt()\n"
        "try:\n    Worker(WorkLog(Path(sys.argv[1])), gpu=False).close(); print('works')\n"
        "except RuntimeError as error:\n    print(error)"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", program, str(folder / "worker.log")],
        capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_a_worker_of_another_installation_is_refused_with_the_mend(tmp_path: Path) -> None:
    """Before: `PYTHONPATH=... fedlite site start` guarded by one release and trained by another."""
    other = tmp_path / "other"
    for name in ("fedlite", "clients"):
        shutil.copytree(app_root() / name, other / name, ignore=shutil.ignore_patterns("*.pyc"))
    own = Path(fedlite.__file__).resolve().parent
    for place, works in ((app_root(), True), (other, False)):
        done = start_worker(tmp_path, PYTHONPATH=str(place))
        assert done.returncode == 0, done.stderr
        if works:
            assert done.stdout == "works\n"
        else:
            for part in (f"in {own})", f"in {other / 'fedlite'})", "take away PYTHONPATH"):
                assert part in done.stdout, done.stdout


def test_a_worker_that_does_not_start_or_says_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    for text, told in (
        ("exit 3", "did not start"),
        # As an older release: the word that it is ready, and nothing before.
        ("printf '\\005\\0\\0\\0\\0\\0\\0\\0ready' >&$4; sleep 9", "runs another fedlite (ready)"),
        ("printf '\\0\\0\\0\\0\\0\\0\\0\\1' >&$4; sleep 9", "did not start"),
    ):
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setattr(warm.sys, "executable", str(program))
        with pytest.raises(warm.WorkerFailed) as failed:
            warm.Worker(warm.WorkLog(tmp_path / "worker.log"), gpu=False)
        assert told in str(failed.value)
