from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from fedlite import flower
from fedlite.messages import Code, Hello
from fedlite.scenario import Scenario
from simulations.engines import Pool, make_engine
from simulations.grid import SimulationGrid
from simulations.node import FIRST_NODE

Plan = Callable[..., Scenario]


def grid(plan: Scenario, name: str, state: Path) -> SimulationGrid:
    engine = make_engine(name, run_id=77, sites=3, run_config=plan.to_run_config(), state=state)
    return SimulationGrid(77, 3, engine)


def hellos(grid: SimulationGrid) -> list[Any]:
    questions = [flower.ask(b"?", node, "query", "hello") for node in grid.get_node_ids()]
    return list(grid.send_and_receive(questions, timeout=60))


def test_every_node_answers_as_itself(plan: Plan, tmp_path: Path) -> None:
    some = grid(plan(), "serial", tmp_path)
    assert some.engine == "serial" and some.run.run_id == 77
    replies = hellos(some)
    names = {r.metadata.src_node_id: Hello.decode(flower.unwrap(r)).site for r in replies}
    assert names == {FIRST_NODE + n: f"site-{n + 1:02d}" for n in range(3)}
    assert len({r.metadata.message_id for r in replies}) == 3
    assert some.cpu_seconds() > 0


def test_only_the_replies_that_were_asked_for_are_given_and_once(
    plan: Plan, tmp_path: Path
) -> None:
    some = grid(plan(), "serial", tmp_path)
    first, second = some.push_messages(
        [flower.ask(b"?", node, "query", "hello") for node in (FIRST_NODE, FIRST_NODE + 1)]
    )
    until = time.monotonic() + 30
    found: list[Any] = []
    while not found and time.monotonic() < until:
        found = some.pull_messages([second])
    assert [m.metadata.reply_to_message_id for m in found] == [second]
    assert some.pull_messages([second]) == []
    assert len(some.pull_messages([first])) == 1


def test_waiting_ends_with_the_timeout(plan: Plan, tmp_path: Path) -> None:
    class Stuck:
        name = "stuck"

        def submit(self, node: int, data: bytes) -> Any:
            from concurrent.futures import Future

            return Future()

        def advance(self, seconds: float) -> None:
            time.sleep(0.01)

    engine: Any = Stuck()
    some = SimulationGrid(77, 3, engine)
    started = time.monotonic()
    questions = [flower.ask(b"?", FIRST_NODE, "query", "hello")]
    assert some.send_and_receive(questions, timeout=0.2) == []
    assert time.monotonic() - started < 2


@pytest.mark.long
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_is_replaced_and_its_message_tried_once_more(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    deaths: int,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    some = grid(plan(), "pool", tmp_path)
    engine = some._engine
    assert isinstance(engine, Pool)
    try:
        process, _ = engine._workers[0]
        (message_id,) = some.push_messages([flower.ask(b"?", FIRST_NODE, "query", "hello")])
        replies: list[Any] = []
        for _ in range(deaths):
            assert not replies
            last, connection = engine._workers[0]
            engine._hand_over(0)
            last.kill()
            wait([connection], 30)
            engine._take(0)
        until = time.monotonic() + 30
        while not replies and time.monotonic() < until:
            replies = some.pull_messages([message_id])
        assert [flower.code_of(r) for r in replies] == [Code.FAILED if deaths > 1 else None]
        assert caplog.text.count("signal 9") == deaths + (deaths > 1)
        assert replies[0].metadata.src_node_id == FIRST_NODE
        assert len(engine._workers) == 1 and engine._workers[0][0].pid != process.pid
        assert [flower.code_of(r) for r in hellos(some)] == [None, None, None]
    finally:
        engine.close()
    assert not any(p.is_alive() for p, _ in engine._workers)
