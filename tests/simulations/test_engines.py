from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from fedlite import flower
from fedlite.messages import Code
from server import replies
from simulations import kept
from simulations.engines import AHEAD, Engine, Pool, Serial
from simulations.grid import SimulationGrid
from simulations.node import FIRST_NODE


class Echo:
    """A node that answers everything, and says where it was answered."""

    most = 1

    def __init__(self, mark: bytes = b"") -> None:
        self.mark = mark

    def handle(self, node: int, data: bytes) -> bytes:
        return flower.to_bytes(flower.answer(self.mark, flower.from_bytes(data)))


class Threads(Pool):
    """A pool whose workers are threads; `gates` holds one back until it is set."""

    def __init__(self, workers: int) -> None:
        self.gates: list[threading.Event] = []
        super().__init__(workers, ())

    def _start(self) -> tuple[Any, Any]:
        here, there = Pipe()
        gate, echo = threading.Event(), Echo(b"worker %d" % len(self.gates))
        gate.set()
        self.gates.append(gate)

        def work() -> None:
            while True:
                try:
                    asked = there.recv()
                except (EOFError, OSError):
                    return
                gate.wait(20)
                found = [echo.handle(node, data) for node, data in asked]
                there.send((0.0, found, 0.25, echo.most, {}))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        end = SimpleNamespace(terminate=lambda: None, join=thread.join, exitcode=0)
        return end, here


def engine_of(kind: str) -> Engine:
    node: Any = Echo()
    return Serial(node) if kind == "serial" else Threads(2)


def questions(nodes: range) -> Iterator[Message]:
    return (flower.ask(b"?", FIRST_NODE + n, "train", "1") for n in nodes)


def lines(engine: Engine, count: int, *, at_once: bool) -> int:
    """Return how many lines of ours a round of `count` messages runs through, loops counted."""
    grid, seen = SimulationGrid(7, count, engine), 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(("engines.py", "simulations/grid.py")):
            return None
        seen += event == "line"
        return trace

    asked = questions(range(count))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        if at_once:
            found = grid.send_and_receive(asked, timeout=60)
        else:
            found = list(replies.ask(grid, asked, 60))
    finally:
        sys.settrace(before)
    assert len({m.metadata.src_node_id for m in found}) == count
    return seen


@pytest.mark.long
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("kind", ["serial", "pool"])
def test_a_message_costs_the_same_however_many_there_are(kind: str, at_once: bool) -> None:
    engine = engine_of(kind)
    few, many = (lines(engine, count, at_once=at_once) for count in (200, 1600))
    # Eight times as many; were each compared with all others, 64 times the work.
    assert many < 12 * few
    engine.close()


@pytest.mark.parametrize("kind", ["serial", "pool"])
def test_a_message_is_made_when_there_is_room_for_it(kind: str) -> None:
    engine, made, held = engine_of(kind), 0, 0

    def counted() -> Iterator[Message]:
        nonlocal made
        for message in questions(range(500)):
            made += 1
            yield message

    grid = SimulationGrid(7, 500, engine)
    for answered, _ in enumerate(replies.ask(grid, counted(), 60)):
        held = max(held, made - answered)
    assert made == 500 and held <= AHEAD + 2
    engine.close()


def test_what_is_left_at_the_deadline_is_never_made() -> None:
    class Slow(Echo):
        def handle(self, node: int, data: bytes) -> bytes:
            threading.Event().wait(0.02)
            return super().handle(node, data)

    node: Any = Slow()
    made = []
    asked = (made.append(m) or m for m in questions(range(500)))  # type: ignore[func-returns-value]
    found = list(replies.ask(SimulationGrid(7, 500, Serial(node)), asked, 0.3))
    assert 0 < len(found) <= len(made) < 200


def test_what_nobody_waits_for_any_more_makes_room_for_others() -> None:
    engine = engine_of("serial")
    grid = SimulationGrid(7, 500, engine)
    grid.push_messages(questions(range(AHEAD)))
    assert engine.room == 0
    found = list(replies.ask(grid, questions(range(AHEAD, AHEAD + 3)), 60))
    assert [m.metadata.src_node_id for m in found] == [FIRST_NODE + AHEAD + n for n in range(3)]


def served(pool: Threads, nodes: range) -> dict[int, bytes]:
    grid = SimulationGrid(7, len(nodes), pool)
    found = grid.send_and_receive(questions(nodes), timeout=60)
    return {m.metadata.src_node_id: flower.unwrap(m) for m in found}


def test_a_site_stays_with_its_worker_and_an_idle_one_helps_out() -> None:
    pool = Threads(2)
    first = served(pool, range(20))
    assert set(first.values()) == {b"worker 0", b"worker 1"}
    homes = dict(pool._home)
    assert served(pool, range(20)).keys() == first.keys()
    assert pool._home == homes
    pool.gates[1].clear()
    grid = SimulationGrid(7, 20, pool)
    waiting = set(grid.push_messages(questions(range(20))))
    found: list[Message] = []
    for _ in range(5):
        found += grid.pull_messages(waiting)
    # All but the one message that the other worker holds; none of them changed its home.
    assert len(found) == 19 and {flower.unwrap(m) for m in found} == {b"worker 0"}
    assert pool._home == homes
    pool.gates[1].set()
    assert [flower.unwrap(m) for m in grid.pull_messages(waiting)] == [b"worker 1"]
    pool.close()


@pytest.mark.parametrize("kind", ["serial", "pool"])
def test_what_each_node_took_is_known_by_its_number(kind: str) -> None:
    engine = engine_of(kind)
    grid = SimulationGrid(7, 3, engine)
    asked = [FIRST_NODE, FIRST_NODE, FIRST_NODE + 1]
    found = grid.send_and_receive(
        [flower.ask(b"?", node, "train", "1") for node in asked], timeout=20
    )
    assert len(found) == 3
    spent = [grid.site_seconds(FIRST_NODE + at) for at in range(3)]
    assert spent[2] == 0.0 and min(spent[:2]) > 0.0
    if kind == "pool":
        assert spent == [0.5, 0.25, 0.0]
    engine.close()


def test_sites_that_one_process_cannot_ask_are_answered_for() -> None:
    """Else nobody would answer, and the round would wait until its deadline."""

    class Broken(Echo):
        most = 4

        def handle_all(self, asked: Any) -> list[bytes]:
            raise MemoryError("made up")

    node: Any = Broken()
    grid = SimulationGrid(7, 9, Serial(node))
    found = grid.send_and_receive(questions(range(9)), timeout=60)
    codes = {m.metadata.src_node_id: flower.code_of(m) for m in found}
    assert len(codes) == 9
    # The ninth was asked by itself.
    assert {codes.pop(FIRST_NODE + 8)} == {None} and set(codes.values()) == {Code.FAILED}


class Torn:
    """A connection that breaks off once while a reply is read."""

    def __init__(self, real: Any, error: BaseException) -> None:
        self.real, self.error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def recv(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError(), ValueError("no pickle")])
def test_a_worker_whose_reply_cannot_be_read_is_replaced(error: Exception) -> None:
    pool = Threads(1)
    process, connection = pool._workers[0]
    pool._workers[0] = process, Torn(connection, error)  # type: ignore[assignment]
    assert served(pool, range(1)) == {FIRST_NODE: b"worker 1"}
    pool.close()


def test_a_worker_whose_reply_is_read_in_part_is_not_kept() -> None:
    pool = Threads(1)
    pool._keep = True
    process, connection = pool._workers[0]
    ended: list[str] = []
    process.terminate = lambda: ended.append("terminated")
    pool._workers[0] = process, Torn(connection, KeyboardInterrupt())  # type: ignore[assignment]
    with kept.keeping():
        with pytest.raises(KeyboardInterrupt):
            served(pool, range(1))
        pool.close()
        assert ended == ["terminated"] and not kept.connections()
