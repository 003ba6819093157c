"""Sites that need no data, behind a grid on which any of them may misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.site import Site
from fedlite import flower
from fedlite.guard.guardian import Decline, Guardian
from fedlite.messages import Hello, Instruction
from fedlite.parameters import Layout, Vector
from fedlite.plan import Plan
from fedlite.reporting.record import RoundRecord
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Share
from server.roster import Roster
from server.rounds import Rounds
from server.witness import Witness
from tests.server.heads import Chain

N = 400
RUN = b"\x07" * 8
LAYOUT = Layout(("w",), ((N,),))
INITIAL = np.linspace(-1, 1, N).astype(np.float32)

Trick = Callable[["Member", Message, Instruction], list[Message]]


class Stub:
    """A learner whose delta depends on round and site alone."""

    layout = LAYOUT
    initial = INITIAL
    labels = np.zeros(20)

    def __init__(self) -> None:
        self.deltas: dict[int, Vector] = {}

    def delta(self, received: Vector, number: int, site: int, mechanism: Any) -> Vector:
        rng = np.random.default_rng([number, site])
        self.deltas[number] = rng.normal(size=N).astype(np.float32)
        return self.deltas[number]

    def share(self, *given: Any) -> Share:
        return Share(self.delta(*given[:4]), {})


def stub_plan(scenario: Scenario, mechanism: Any = None) -> Plan:
    return Plan(scenario, (N,), 2, LAYOUT, INITIAL, mechanism)


class Member:
    """One site; `tricks` maps a round to what it does instead of taking part."""

    def __init__(self, scenario: Scenario, name: str, path: Path) -> None:
        learner: Any = Stub()
        self.learner = learner
        guard = Guardian(name, scenario, None, None, lambda: "")
        self.site = Site(stub_plan(scenario), name, learner, path, guard)
        self.asked: list[Instruction] = []
        self.tricks: dict[int, Trick] = {}
        self.always: Trick | None = None
        self.hello: bytes | None = Hello(name, LAYOUT.digest.hex(), "0").encode()

    def reply(self, message: Message) -> list[Message]:
        if message.metadata.message_type == "query":
            return [] if self.hello is None else [flower.answer(self.hello, message)]
        instruction = Instruction.decode(flower.unwrap(message))
        self.asked.append(instruction)
        trick = self.tricks.get(instruction.round, self.always)
        return trick(self, message, instruction) if trick else [self.honest(message, instruction)]

    def honest(self, message: Message, instruction: Instruction) -> Message:
        try:
            return flower.answer(self.site.take_part(instruction).encode(), message)
        except Decline as decline:
            return flower.decline(decline.code, message)


class FakeGrid:
    """What `Rounds` uses of Flower's grid; every blob is counted and crosses protobuf."""

    def __init__(self, members: dict[int, Member]) -> None:
        self.members = members
        self.inbox: list[Message] = []
        self.up: dict[str, int] = {}
        self.down: dict[str, int] = {}
        self.poisoned: set[str] = set()
        self.refuse_to_push: set[int] = set()
        self._count = 0

    def get_node_ids(self) -> list[int]:
        return list(self.members)

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        ids: list[str | None] = []
        for message in messages:
            self._count += 1
            node = message.metadata.dst_node_id
            if node in self.refuse_to_push:
                ids.append(None)
                continue
            name = f"m{self._count}"
            ids.append(name)
            flower.set_message_id(message, name)
            arrived = flower.from_bytes(flower.to_bytes(message))
            train = message.metadata.message_type == "train"
            if train:
                number = message.metadata.group_id
                self.down[number] = self.down.get(number, 0) + len(flower.unwrap(message))
            flower.identify(1, node)
            for reply in self.members[node].reply(arrived):
                received = flower.from_bytes(flower.to_bytes(reply))
                if train and not received.has_error():
                    try:
                        size = len(flower.unwrap(received))
                    except ValueError:
                        size = 0
                    self.up[number] = self.up.get(number, 0) + size
                self.inbox.append(received)
            flower.identify(1, 0)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        wanted = list(ids)
        assert all(isinstance(i, str) for i in wanted), "Flower's own grid would raise here"
        if self.poisoned & set(wanted):
            raise RuntimeError("DecodeError: Error parsing message")
        ready = [m for m in self.inbox if m.metadata.reply_to_message_id in wanted]
        self.inbox = [m for m in self.inbox if m not in ready]
        return ready


class World:
    """A federation in one object: scenario, members, grid, directory."""

    def __init__(self, directory: Path, sites: int, tables: dict[str, Any]) -> None:
        federation = {"rounds": 4, "sites": sites, "deadline_seconds": 0.3}
        self.scenario = from_dict(
            tables
            | {"federation": federation | tables.get("federation", {})}
            | {"uplink": {"density": 0.05} | tables.get("uplink", {})}
            | {"downlink": {"density": 0.05} | tables.get("downlink", {})}
        )
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.members = [
            Member(self.scenario, f"site-{n}", directory / f"site-{n}.safetensors")
            for n in range(1, sites + 1)
        ]
        self.grid = FakeGrid({100 + n: member for n, member in enumerate(self.members)})
        flower.identify(1, 0)

    def rounds(self, central: Any = None, witness: Any = None, **more: Any) -> Rounds:
        grid: Any = self.grid
        plan = stub_plan(self.scenario, central)
        roster = Roster(grid, self.scenario.federation, LAYOUT.digest, witness=witness, **more)
        return Rounds(grid, plan, self.directory, roster, run=RUN, witness=witness)

    def play(self, rounds: Rounds | None = None) -> Rounds:
        rounds = rounds or self.rounds()
        for _ in _played(rounds):
            pass
        return rounds

    def interrupt(self) -> None:
        """Play one round more, in a process that then ends."""
        player = _played(self.rounds())
        next(player)
        player.close()  # type: ignore[attr-defined]


def _played(rounds: Rounds) -> Iterator[RoundRecord]:
    return rounds.play(
        epsilon=lambda asked: None,
        evaluate=lambda number, model: {},
        cpu_seconds=lambda: 0.0,
    )


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """Return a maker of worlds: `world(sites=3, federation={...})`."""

    def make(sites: int = 3, folder: str = "run", **tables: Any) -> World:
        return World(tmp_path / folder, sites, tables)

    return make


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "home")


@pytest.fixture
def server(tmp_path: Path) -> Callable[[], Witness]:
    """Return a maker of the same server, started again."""
    return lambda: Witness(tmp_path / "run", tmp_path / "witness.pem")
