"""A coordinator's front under attack: strangers, local users, and one of its own sites.

Covers fedlite/deployment/heads.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from clients.runtime import setup
from clients.runtime.fleet import Fleet, connection
from fedlite.guard.policy import DataSet
from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from server.coordinator import bodies, enrolment, submit, superlink
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.known import keys
from simulations.benchmarks.lab import wait_for
from tests.server.coordinator import front
from tests.server.coordinator.test_superlink import make, programs

pytestmark = pytest.mark.long

MIB = 1 << 20


@dataclass
class Place:
    """A coordinator, and two sites' connections. root: the folders of all, also of "greedy"."""

    root: Path
    coordinator: Coordinator
    honest: Fleet
    hostile: Fleet


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("front")
    made = make(root / "c")
    superlink.start(made)
    control = Control(made)
    try:
        for name in ("honest", "hostile", "greedy"):
            setup.init(root / name, name, data=DataSet("digits", "digits"))
            setup.join(root / name, made.invitation, confirm=lambda invitation: True)
            enrolment.approve(made, root / name / "request.json", control, lambda question: True)
        found = Place(root, made, connection(root / "honest"), connection(root / "hostile"))
        for fleet in (found.honest, found.hostile):
            fleet.activate()
        yield found
        for fleet in (found.honest, found.hostile):
            fleet.close()
    finally:
        control.close()
        superlink.stop(made)


def known_keys(coordinator: Coordinator) -> list[str]:
    return sorted(keys(coordinator.path))


def test_nobody_s_bodies_are_not_read(place: Place) -> None:
    before = front.superlink_rss(place.coordinator)
    with front.unfinished(place.coordinator, 6, 200_000_000):
        during = front.superlink_rss(place.coordinator)
    with front.unfinished(place.coordinator, 6, 5_000_000):
        during = max(during, front.superlink_rss(place.coordinator))
    print(f"SuperLink: {before // MIB} MiB before, {during // MIB} MiB while nobody sends")
    assert during - before < 20 * MIB


def test_a_local_user_fills_no_memory_and_holds_no_connection(place: Place) -> None:
    port, before = place.coordinator.settings.superlink_port, front.superlink_rss(place.coordinator)
    idle = front.tls(place.coordinator, port)  # says nothing, and is given up
    begun = time.monotonic()
    sent = 0
    for line in (b"POST /" + b"x" * 1000, b"x: " + b"y" * 1000 + b"\r\n"):
        for start in (b"", b"POST /v1/control/list-runs HTTP/1.1\r\n"):
            with front.tls(place.coordinator, port) as connection:
                connection.sendall(start)
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    for _ in range(20_000):
                        connection.sendall(line)
                        sent += len(line)
    assert front.superlink_rss(place.coordinator) - before < 20 * MIB
    assert sent < 4 * 16 * MIB  # what the kernel took before the other end hung up
    with idle, contextlib.suppress(OSError):
        idle.settimeout(30)
        assert idle.recv(1) == b""
    assert 10 < time.monotonic() - begun < 25


def test_a_sites_unfinished_bodies_are_bounded_and_named(place: Place) -> None:
    before = front.superlink_rss(place.coordinator)
    headers = front.signature(place.root / "greedy" / "keys" / "node.pem")
    with front.unfinished(place.coordinator, 40, 5_000_000, headers) as held:
        during = front.superlink_rss(place.coordinator)
        assert place.honest.receive() is None
        assert place.honest.receive() is None
        # Eight were read, up to the last byte; of the others none, and the last few were refused.
        answers = [front.said_by(connection) for connection in held]
    statuses = {front.status(answer) for answer in answers}
    print(f"SuperLink: {(during - before) // MIB} MiB more for 200 MB of one site; {statuses}")
    assert statuses <= {0, 429, 503} and 429 in statuses
    assert during - before < 2.5 * bodies.SITE_BYTES
    refused = submit.overview(place.coordinator)["refused"]
    assert set(refused) == {"greedy"} and "push-object too-many-at-once" in refused["greedy"]


def test_an_address_without_a_known_key_has_few_connections(place: Place) -> None:
    """While nobody answers, which is the only time in which a stranger's request stays open."""
    (known, *_) = known_keys(place.coordinator)
    (pid,) = programs(place.coordinator, "flower-superlink")
    port = place.coordinator.settings.gateway_port
    head = f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: h\r\nContent-Type: {front.KIND}\r\n"
    os.kill(pid, signal.SIGSTOP)
    held = []
    try:
        for number in range(40):
            connection = front.tls(place.coordinator, port)
            # An approved site's key, which is no secret, makes nobody a site; it is no stranger's.
            key = f"flwr-public-key: {known}\r\n" if number == 39 else ""
            connection.sendall(f"{head}{key}Content-Length: 0\r\n\r\n".encode())
            held.append(connection)
        answers = []
        for connection in held:
            connection.settimeout(0.05)
            try:
                answers.append(front.status(connection.recv(65536)))
            except TimeoutError:
                answers.append(0)
        assert answers[:32] == [0] * 32 and set(answers[32:39]) == {429} and answers[39] == 0
    finally:
        os.kill(pid, signal.SIGCONT)
        for connection in held:
            connection.close()
    wait_for("the answer", lambda: place.honest.receive() is None)


def test_a_reply_in_sixty_thousand_parts_stops_nobody_else(place: Place) -> None:
    scenario = from_dict({"federation": {"name": "demo", "rounds": 1, "sites": 2}})
    submit.submit(place.coordinator, scenario, app_root())
    incoming = wait_for("a message", place.hostile.receive)
    message = place.hostile.content(incoming, 10**9)
    request = front.announcement(place.hostile, message, 60_000)
    over, slowest, failed = threading.Event(), 0.0, 0

    def attack() -> None:
        with pytest.raises(httpx.HTTPStatusError, match="413"):
            place.hostile._client.PushMessages(request)
        over.set()

    thread = threading.Thread(target=attack)
    thread.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and not over.wait(0.1):
        begun = time.monotonic()
        try:
            place.honest.receive()
        except ConnectionError:
            failed += 1
        slowest = max(slowest, time.monotonic() - begun)
    thread.join()
    print(f"slowest answer to another site: {slowest:.2f} s, {failed} failed")
    assert over.is_set() and failed == 0 and slowest < 2.0
    # A genuine one passes, and who was refused is named.
    place.hostile._client.PushMessages(front.announcement(place.hostile, message, 50))
    refused = submit.overview(place.coordinator)["refused"]
    assert refused["hostile"] == {"push-messages too-long": 1} and "honest" not in refused
    submit.stop_run(place.coordinator, "demo")


def test_a_site_gives_another_no_orders(place: Place) -> None:
    """Flower takes whatever its announcement says of itself for true: also that it is Flower's."""
    scenario = from_dict({"federation": {"name": "orders", "rounds": 1, "sites": 2}})
    submit.submit(place.coordinator, scenario, app_root())
    incoming = wait_for("a message", place.hostile.receive)
    message = place.hostile.content(incoming, 10**9)
    wait_for("the other's own", place.honest.receive)
    for sender, receiver in ((1, place.honest.node_id), (1, 1), (place.honest.node_id, 1)):
        request = front.announcement(place.hostile, message, 3)
        about = request.messages_list[0].metadata
        about.src_node_id, about.dst_node_id = sender, receiver
        if sender == 1:
            about.reply_to_message_id = ""
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            place.hostile._client.PushMessages(request)
    assert place.honest.receive() is None
    place.hostile._client.PushMessages(front.announcement(place.hostile, message, 3))
    submit.stop_run(place.coordinator, "orders")
