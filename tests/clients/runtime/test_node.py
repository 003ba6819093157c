"""The site's own process, with a coordinator and a worker that stand in: what leaves it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from clients.runtime import gate, node, seats, setup
from clients.runtime.fleet import Incoming, RunOver
from clients.runtime.gate import ApprovedRun
from clients.runtime.inflight import InFlight
from fedlite import flower
from fedlite.deployment import journal
from fedlite.guard.policy import DataSet, Limits, SitePolicy
from fedlite.messages import Code, Instruction, site_id

UP = 2000
RUN = "00112233aabbccdd"
BUNDLE: Any = SimpleNamespace(sha256="ab" * 32)


class Site:
    """A site's process beside its connection: `waiting` goes in, `replies` come out."""

    node_id = 2
    release = None

    def __init__(self, home: Path) -> None:
        self.home = home
        self.waiting: list[Message] = []
        self.replies: list[Message] = []
        self.asked = 0
        self.said: bytes | Code = b""
        self.stop = threading.Event()

    def work(self) -> list[Message]:
        """Let the process answer all that waits; return its replies."""
        self.stop.clear()
        self.replies = []
        node.Runtime(self.home).serve(self.stop)
        return self.replies

    def outcome(self, said: bytes | Code) -> tuple[Code | None, str]:
        """Return the code of the reply when a worker answers so, and the word for it."""
        self.said = said
        self.waiting.append(message())
        (reply,) = self.work()
        (row,) = json.loads((self.home / "status.json").read_bytes())["rounds"]
        return flower.code_of(reply), row["outcome"]

    def ask(self, question: bytes, limits: Limits, reserve: Any) -> bytes | Code:
        self.asked += 1
        return self.said

    def get(self, approved: ApprovedRun, chosen: DataSet, run: int, node: int) -> Site:
        return self

    def activate(self) -> int:
        return self.node_id

    def receive(self) -> Incoming | None:
        if self.waiting:
            return Incoming(self.waiting.pop(0), None)  # type: ignore[arg-type]
        self.stop.set()
        return None

    def run_config(self, run: int) -> tuple[str, dict[str, Any]]:
        return "", {}

    def bundle(self, claimed: str, run: int) -> bytes:
        return b""

    def content(self, incoming: Incoming, limit: int) -> Message:
        return incoming.stub

    def confirm(self, incoming: Incoming) -> None:
        assert (self.home / "inflight" / "message").exists(), "confirmed before it was kept"

    def push(self, reply: Message) -> None:
        self.replies.append(reply)

    def released(self, path: str, body: bytes, limit: int) -> bytes:
        return b""

    def close(self) -> None:
        pass


def message() -> Message:
    flower.identify(1, 2)
    asked = Instruction(bytes.fromhex(RUN), 1, site_id("a"), 0, bytes(8), ())
    return flower.ask(asked.encode(), 2, "train", "1")


def frame(text: bytes = b"") -> bytes:
    """Return what a site takes for a frame: it is not for the site to read more than its head."""
    return bytes(28) + text


def approved(**more: Any) -> ApprovedRun:
    policy = SitePolicy(site="a", units=("none",), data=(DataSet("digits", "digits"),), **more)
    return ApprovedRun(BUNDLE, {"data.name": "digits", "run.id": RUN}, policy)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path / "home")
    setup.init(made.home, "a", data=DataSet("digits", "digits"))
    run = approved(limits=Limits(up=UP))
    text = (made.home / "site.toml").read_text()
    (made.home / "site.toml").write_text(text.replace('units = ["record"]', 'units = ["none"]'))
    here = SimpleNamespace(address="127.0.0.1:9", name="study", fingerprint="AB:CD")
    monkeypatch.setattr(seats, "joined", lambda home: here)
    monkeypatch.setattr(node, "connection", lambda home: made)
    monkeypatch.setattr(node, "Workers", lambda home, seat, policy: made)
    monkeypatch.setattr(gate, "check", lambda policy, content, given: run)
    return made


def test_what_a_worker_answers_is_measured_and_packed_anew(site: Site) -> None:
    assert site.outcome(bytes(UP)) == (None, "sent")
    assert flower.unwrap(site.replies[0]) == bytes(UP)
    assert site.outcome(bytes(UP + 1)) == (Code.POLICY, "policy")
    assert f"limits.up: {UP + 1} bytes" in journal.read(site.home / "audit")[-1]["why"]
    assert site.outcome(b"no frame") == (Code.FAILED, "failed")
    assert site.outcome(Code.DATA) == (Code.DATA, "data")
    assert not list((site.home / "inflight").iterdir())


def test_what_a_killed_process_owed_is_answered_first_and_not_trained(site: Site) -> None:
    question = message()
    InFlight(site.home).take(question)
    site.said = frame(b"new")
    site.waiting.append(question)
    first, second = site.work()
    assert flower.code_of(first) == Code.FAILED and flower.unwrap(second) == frame(b"new")
    assert site.asked == 1

    InFlight(site.home).take(question)
    InFlight(site.home).ready(flower.answer(b"ready", question))
    (only,) = site.work()
    assert flower.unwrap(only) == b"ready" and site.asked == 1


def test_a_run_that_is_not_approved_is_declined_and_its_bundle_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise gate.NotApproved("training.steps: must be the approved 1, got 2")

    monkeypatch.setattr(gate, "check", refuse)
    site.waiting += [message(), message()]
    assert [flower.code_of(reply) for reply in site.work()] == [Code.UNAPPROVED] * 2
    assert len(list((site.home / "bundles" / "waiting").glob("*.fab"))) == 1
    assert [row["action"] for row in journal.read(site.home / "audit")] == ["init", "refuse"]
    assert site.asked == 0


def test_a_message_of_a_run_that_is_over_is_not_trained(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(incoming: Incoming) -> None:
        raise RunOver("the run has ended")

    monkeypatch.setattr(site, "confirm", over)
    site.waiting.append(message())
    assert site.work() == [] and site.asked == 0
    assert not list((site.home / "inflight").iterdir())


@pytest.mark.parametrize(
    ("clock", "took", "leaves"),
    [(30, 0.2, 30), (30, 29.9, 30), (30, 30.5, 60), (30, 95, 120), (7, 0, 0), (0, 12.5, 12.5)],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_reply_leaves_on_a_tick_of_the_site_s_clock(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    clock: int,
    took: float,
    leaves: float,
    restarted: bool,
) -> None:
    now, sent = [1000.0], []

    def work(question: bytes, limits: Limits, reserve: Any) -> bytes:
        now[0] += took
        return site.said

    def wait(seconds: float | None = None) -> bool:
        now[0] += seconds or 0.0
        return False

    run = approved(clock=clock)
    monkeypatch.setattr(gate, "check", lambda policy, content, given: run)
    monkeypatch.setattr(node.time, "time", lambda: now[0])
    monkeypatch.setattr(InFlight, "came", lambda self: 1000.0)
    monkeypatch.setattr(site.stop, "wait", wait)
    monkeypatch.setattr(site, "ask", work)
    monkeypatch.setattr(site, "push", lambda reply: sent.append((now[0], reply)))
    question = message()
    site.said = frame(b"new")
    if restarted:
        toml = site.home / "site.toml"
        toml.write_text(toml.read_text().replace("clock = 0", f"clock = {clock}"))
        InFlight(site.home).take(question)
        InFlight(site.home).ready(flower.answer(frame(b"new"), question))
        now[0] += took
    else:
        site.waiting.append(question)
    site.work()
    ((when, reply),) = sent
    assert when == pytest.approx(1000.0 + leaves) and flower.unwrap(reply) == frame(b"new")


def test_told_to_stop_before_the_tick_the_reply_waits_on_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = approved(clock=3600)
    monkeypatch.setattr(gate, "check", lambda policy, content, given: run)
    question = message()
    site.said = frame(b"new")
    site.waiting.append(question)
    threading.Timer(0.3, site.stop.set).start()
    assert site.work() == []
    # The clock is off by now.
    (reply,) = site.work()
    assert flower.unwrap(reply) == frame(b"new") and site.asked == 1
