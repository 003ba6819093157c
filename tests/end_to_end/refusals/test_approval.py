"""Whose code may run at a site."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clients.runtime import approval
from fedlite.deployment import bundle as bundles
from fedlite.rooms import app_root
from server.coordinator import jobs, submit as runs
from server.coordinator.folder import Coordinator
from tests.end_to_end.refusals.partners import (
    CLEAR,
    ROUNDS,
    approve,
    change,
    scenario,
    submit,
    text_of,
)


@pytest.mark.long
def test_a_bundle_runs_only_where_it_was_approved(lab: Any, tmp_path: Path, wait: Any) -> None:
    homes = [lab.partners[name].home for name in ("a", "b")]
    chosen = scenario("altered", 2, *CLEAR)
    for home in homes:
        approve(home, chosen)
    root = tmp_path / "root"
    for room in ("clients", "server", "strategies"):
        shutil.copytree(app_root() / room, root / room)
    shutil.copy(app_root() / "pyproject.toml", root)
    with (root / "clients" / "app.py").open("a") as file:
        file.write("# One comment more.\n")
    name, directory = submit(lab, chosen, root)
    content = (lab.coordinator / lab.job(name)["bundle"]).read_bytes()
    digest = bundles.digest(content)
    assert digest != bundles.digest(runs.build(chosen, app_root()))

    gathering = directory / "gathering.txt"
    wait(
        "both refusals",
        lambda: "not approved there yet: a, b" in text_of(gathering) or lab.job(name)["reason"],
    )
    job = jobs.load(Coordinator.open(lab.coordinator), name)
    shown = runs._waiting(Coordinator.open(lab.coordinator), chosen, job)
    assert shown == (
        "waiting for sites: 2 online, 0 of 2 sites ready; not approved there yet: a, b"
    )
    for home in homes:
        assert (home / "bundles" / "waiting" / f"{digest}.fab").read_bytes() == content
        assert not (home / "bundles" / digest).exists()
        assert text_of(home / "logs" / "worker.log") == "" and not list((home / "state").iterdir())
        assert lab.journal(home)[-1]["why"] == f"bundle {digest[:16]} is not approved by this site"
    assert f"see it with `fedlite site approve {homes[0]}`" in lab.partners["a"].log

    done = lab.fedlite("site", "approve", homes[0], digest[:12], "--yes", code=1)
    assert "1 files differ from the code installed here" in done.stderr
    assert "clients/app.py" in done.stdout
    lab.fedlite("site", "approve", homes[0], digest[:12], "--yes", "--changed-code")
    wait("one site ready", lambda: "1 of 2 sites ready (a)" in text_of(gathering))
    approval.approve(homes[1], approval.review(homes[1], bundles.read(content), {}), "a test")
    assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["accepted"] for r in lab.rounds(name)] == [2] * ROUNDS


@pytest.mark.long
def test_a_ceiling_holds_after_the_approval_too(lab: Any) -> None:
    a, b = (lab.partners[name].home for name in ("a", "b"))
    chosen = scenario("private", 2)
    for home in (a, b):
        approve(home, chosen)
    change(a, "epsilon = 3.0", "epsilon = 0.01")
    bundle = lab.root / "private.fab"
    bundle.write_bytes(runs.build(chosen, app_root()))
    done = lab.fedlite("site", "approve", a, bundle, "--yes", code=1)
    assert "budget.epsilon: 0.01 is below the plan's epsilon, 3" in done.stderr
    name, _ = submit(lab, chosen)
    assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["accepted"] for r in lab.rounds(name)] == [1] * ROUNDS
    assert [r["dropped"] for r in lab.rounds(name)] == [{"a": "budget"}, {}]
