"""Hostile, rotated and revoked sites: named, and the round goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

import fedlite
from clients.runtime import setup
from clients.runtime.fleet import RunOver, connection
from fedlite import data, flower
from fedlite.messages import Hello
from fedlite.models import build
from fedlite.parameters import Layout
from tests.end_to_end.refusals.partners import (
    CLEAR,
    ROUNDS,
    approve,
    enrol,
    let_in,
    scenario,
    submit,
    text_of,
)


class Hostile:
    """Registered sites that answer as they like, all from one thread."""

    def __init__(self, sites: dict[Path, Callable[[Message], bytes]]) -> None:
        self._sites = {connection(home): says for home, says in sites.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        for fleet in self._sites:
            fleet.activate()
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for fleet in self._sites:
            fleet.close()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            for fleet, says in self._sites.items():
                try:
                    incoming = fleet.receive()
                    if incoming is None:
                        continue
                    flower.identify(incoming.run, fleet.node_id)
                    message = fleet.content(incoming, 10**9)
                    fleet.confirm(incoming)
                    fleet.push(flower.answer(says(message), message))
                except RunOver:
                    continue


@pytest.mark.long
def test_a_hostile_site_is_dropped_and_named_and_the_round_goes_on(lab: Any) -> None:
    chosen = scenario("hostile", 3, *CLEAR)
    approve(lab.partners["a"].home, chosen)
    lab.partners["b"].stop()
    source = data.load(chosen.data.name)
    model = build(chosen.model.name, source.shape, source.classes, seed=chosen.federation.seed)

    def hello(name: str) -> bytes:
        return Hello(name, Layout.of(model).digest.hex(), fedlite.__version__).encode()

    def too_much(message: Message) -> bytes:
        query = message.metadata.message_type.startswith("query")
        return hello("mallory") if query else bytes(5_000_000)

    sites = {enrol(lab, "mallory"): too_much, enrol(lab, "eve"): lambda message: hello("b")}
    with Hostile(sites):
        name, directory = submit(lab, chosen)
        assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["dropped"] for r in lab.rounds(name)] == [{"mallory": "bad-update"}] * ROUNDS
    assert [r["accepted"] for r in lab.rounds(name)] == [1] * ROUNDS
    assert max(r["bytes_up"] for r in lab.rounds(name)) < 100_000
    summary = json.loads((directory / "summary.json").read_bytes())
    assert "config" in str(summary), summary
    log = text_of(directory / "server.log")
    assert "a node says that it is b, and is not approved as that" in log
    assert "a reply was dropped: it is larger than" in log


@pytest.mark.long
def test_a_site_goes_over_to_its_next_key_while_it_runs(lab: Any, wait: Any) -> None:
    site, node = lab.partners["a"], lab.json("server", "sites")["sites"][0]["node_id"]
    let_in(lab, setup.rotate_key(site.home))
    wait("the next key", lambda: not (site.home / setup.NEXT).exists())
    wait("a on line", lambda: site.status().get("state") == "connected")
    assert "the coordinator has taken the new node key" in site.log
    (row,) = [row for row in lab.json("server", "sites")["sites"] if row["name"] == "a"]
    assert row["state"] == "online" and row["node_id"] != node


# `fedlite site start`, which gives up after 3 seconds of refusals instead of 60.
IMPATIENT = """
import sys
from fedlite.rooms import app_root
sys.path.insert(0, str(app_root()))
from clients.runtime.node import Runtime
Runtime.serve.__defaults__ = (3.0,)
from fedlite.cli import main
main()
"""


@pytest.mark.long
def test_a_site_that_was_revoked_is_out(lab: Any, wait: Any) -> None:
    site = lab.partners["b"]
    with (lab.root / "b.log").open("ab") as output:
        site.process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "site", "start", site.home],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=lab.environment,
        )
    site.wait_online()
    lab.fedlite("server", "revoke", "b")
    wait("the end of b", lambda: site.process.poll() is not None)
    assert site.process.poll() == 1
    assert "the key was revoked" in site.log and "or was revoked" in site.log.splitlines()[-1]
    assert lab.journal(site.home)[-1]["action"] == "refused"
    rows = {row["name"]: row["state"] for row in lab.json("server", "sites")["sites"]}
    assert rows["b"] == "revoked"
