"""Runs whose sites are trained together are those whose sites are trained one by one.

Covers simulations/node.py.
"""

from __future__ import annotations

import fcntl
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

from clients import app as clientapp, opening, site as sites
from clients.site import Site
from fedlite import flower
from fedlite.compression.rotated import RotatedTopK
from fedlite.guard.guardian import Guardian
from fedlite.messages import Code, Instruction, site_id
from fedlite.parameters import vector_digest
from fedlite.privacy.ledger import read
from fedlite.training import together
from fedlite.training.together import Together
from server import checkpoint
from simulations import run
from simulations.engines import Serial
from simulations.node import FIRST_NODE, Node, close_all
from simulations.run import simulate
from tests.simulations.running import Killed, Outcome, Plan, Trap

ROUNDS = {"sites": 6, "rounds": 4}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a short run find out how to train, and find that together is faster."""
    monkeypatch.setattr(together, "_LEAST", 1)
    monkeypatch.setattr(together, "_GAIN", 0.0)


def trained(directory: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((directory / "summary.json").read_text())["trained"]
    return found


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("private", "tables"),
    [(False, {}), (False, {"training": {"objective": "scaffold"}}), (True, {})],
)
def test_together_alone_in_a_pool_and_resumed_are_one_run(
    plan: Plan,
    tmp_path: Path,
    outcome: Outcome,
    killed: Killed,
    trap: Trap,
    monkeypatch: pytest.MonkeyPatch,
    private: bool,
    tables: dict[str, Any],
) -> None:
    small = plan(private, federation=ROUNDS, **tables)
    simulate(small, tmp_path / "alone", engine="serial", quiet=True)
    assert trained(tmp_path / "alone") == {"alone": 24, "together": 0}
    truth = outcome(tmp_path / "alone")
    monkeypatch.setattr(together, "_LEAST", 1)
    monkeypatch.setattr(together, "_GAIN", 0.0)
    simulate(small, tmp_path / "serial", engine="serial", quiet=True)
    # Three of six show in each of three rounds how long one takes.
    assert trained(tmp_path / "serial") == {"alone": 9, "together": 15}
    assert outcome(tmp_path / "serial") == truth
    arm = trap(checkpoint, "save", 2, "before")
    resumed = tmp_path / "resumed"
    assert killed(lambda: simulate(small, resumed, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(resumed), resumed, engine="serial", quiet=True)
    assert outcome(resumed) == truth and trained(resumed)["together"] > 0


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("fit", [True, False])
@pytest.mark.parametrize("down", ["dense", "topk"])
def test_updates_packed_together_are_those_packed_alone_and_resumed(
    plan: Plan,
    tmp_path: Path,
    outcome: Outcome,
    killed: Killed,
    trap: Trap,
    monkeypatch: pytest.MonkeyPatch,
    fit: bool,
    down: str,
) -> None:
    """Also of sites that train one by one, and of those that keep nothing (a dense way down)."""
    links = {
        "uplink": {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False},
        "downlink": {"compressor": down},
    }
    small = plan(False, federation=ROUNDS, **links)
    simulate(small, tmp_path / "alone", engine="serial", quiet=True)
    truth = outcome(tmp_path / "alone")
    packed: dict[str, list[int]] = {"compress_many": [], "decompress_many": []}
    for name, seen in packed.items():
        real = getattr(RotatedTopK, name)

        def noted(self: Any, many: Any, *rest: Any, real: Any = real, seen: Any = seen) -> Any:
            seen.append(len(many))
            return real(self, many, *rest)

        monkeypatch.setattr(RotatedTopK, name, noted)
    monkeypatch.setattr(together, "_LEAST", 1)
    monkeypatch.setattr(together, "_GAIN", 0.0)
    monkeypatch.setattr(opening, "_together", {})
    if not fit:
        monkeypatch.setattr(Together, "_unfit", lambda self: "it is said so")
    simulate(small, tmp_path / "packed", engine="serial", quiet=True)
    assert outcome(tmp_path / "packed") == truth
    assert trained(tmp_path / "packed")["together"] == (15 if fit else 0)
    assert packed["compress_many"] == [6] * 4
    # In the first round updates wait for the median of their lengths, and are read again.
    assert packed["decompress_many"] == [6] * 5
    arm = trap(checkpoint, "save", 2, "before")
    resumed = tmp_path / "resumed"
    assert killed(lambda: simulate(small, resumed, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(resumed), resumed, engine="serial", quiet=True)
    assert outcome(resumed) == truth


@pytest.mark.long
@pytest.mark.usefixtures("undrawn", "short")
@pytest.mark.parametrize("private", [False, True])
def test_a_pool_that_trains_together_is_the_serial_run(
    plan: Plan, tmp_path: Path, outcome: Outcome, private: bool
) -> None:
    small = plan(private, federation=ROUNDS)
    found = []
    for engine in ("serial", "pool"):
        simulate(small, tmp_path / engine, engine=engine, quiet=True)
        found.append(outcome(tmp_path / engine))
        assert sum(trained(tmp_path / engine).values()) == 24
    assert found[0] == found[1]


@pytest.mark.usefixtures("undrawn", "short")
def test_every_site_has_reserved_before_one_trains_and_settled_before_its_reply(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, str]] = []

    def note(owner: Any, name: str, told: str, of: Any) -> None:
        real = getattr(owner, name)

        def noted(*given: Any, **named: Any) -> Any:
            result = real(*given, **named)
            order.append((told, of(*given)))
            return result

        monkeypatch.setattr(owner, name, noted)

    note(Guardian, "reserve", "reserve", lambda self, *rest: self.site)
    note(Guardian, "release", "release", lambda self, *rest: self.site)
    note(sites, "save", "save", lambda path, *rest: path.stem)
    train, homes = Together._many, tmp_path / "run" / "checkpoint" / "sites" / "homes"

    def many(self: Together, asked: Any) -> Any:
        order.append(("train", ""))
        for one in asked:
            # Not only called: on record, for this round and this model.
            (ledger,) = (homes / names[one.site] / "ledgers").glob("*.jsonl")
            last = [row for row in read(ledger) if row.kind == "reserve"][-1]
            assert last.body["round"] == one.round
        return train(self, asked)

    scenario = plan(True, -1, federation=ROUNDS)
    names = {site_id(name): name for name in (f"site-{n:02d}" for n in range(1, 7))}
    monkeypatch.setattr(Together, "_many", many)
    simulate(scenario, tmp_path / "run", engine="serial", quiet=True)
    for name in names.values():
        mine = [told for told, site in order if site == name]
        # The first save is of a site that has never trained.
        assert mine == ["save"] + ["reserve", "save", "release"] * 4, name
    told = [told for told, _ in order]
    first = told.index("train")
    assert told[:first].count("reserve") == 6 and "release" not in told[:first]


def node_of(scenario: Any, folder: Path, most: int = 8) -> Node:
    sites_ = scenario.federation.sites
    return Node(77, sites_, scenario.to_run_config(), folder, most)


def test_of_one_node_no_two_messages_are_in_a_group(plan: Plan, tmp_path: Path) -> None:
    """The second would wait for the file that the first holds, for ever."""
    node = node_of(plan(federation=ROUNDS), tmp_path)
    engine = Serial(node)
    asked = [flower.to_bytes(flower.ask(b"?", FIRST_NODE + n, "train", "1")) for n in (0, 1, 1, 2)]
    futures = [
        engine.submit(FIRST_NODE + n, data) for n, data in zip((0, 1, 1, 2), asked, strict=True)
    ]
    engine.advance(30)
    codes = [flower.code_of(flower.from_bytes(future.result())) for future in futures]
    assert codes == [Code.BAD_INSTRUCTION] * 4


def test_one_bad_message_spoils_no_other(plan: Plan, tmp_path: Path) -> None:
    simulate_ = plan(federation=ROUNDS)
    node = node_of(simulate_, tmp_path)
    hello = flower.to_bytes(flower.ask(b"?", FIRST_NODE, "query", "hello"))
    bad = flower.to_bytes(flower.ask(b"\xff" * 9, FIRST_NODE + 1, "train", "1"))
    found = node.handle_all([(FIRST_NODE, hello), (FIRST_NODE + 1, bad)])
    assert [flower.code_of(flower.from_bytes(one)) for one in found] == [None, Code.BAD_INSTRUCTION]


def test_files_are_free_after_an_error_in_training(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Together, asked: Any) -> tuple[list[Any], int]:
        return [ValueError("made up") for _ in asked], 0

    monkeypatch.setattr(Together, "shares", broken)
    scenario = plan(federation=ROUNDS)
    node = node_of(scenario, tmp_path)
    context = node._context(FIRST_NODE)
    member: Site = clientapp._site(context)

    model = vector_digest(member.plan.first)
    asked = Instruction(bytes(8), 1, member.number, 0, model, ())
    message = flower.ask(asked.encode(), FIRST_NODE, "train", "1")
    (reply,), _ = clientapp.train_many([(message, context)])
    assert flower.code_of(reply) is Code.DATA
    with member.path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.usefixtures("undrawn")
def test_the_trouble_of_one_site_in_compression_is_its_own(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a kind that nobody expects."""
    first, real, many = site_id("site-01"), RotatedTopK.compress, RotatedTopK.compress_many

    def one(self: Any, vector: Any, context: Any) -> bytes:
        if context.sender == first:
            raise RuntimeError("own trouble")
        return real(self, vector, context)

    def all_(self: Any, vectors: Any, contexts: Any) -> list[bytes]:
        if any(context.sender == first for context in contexts):
            raise MemoryError
        return many(self, vectors, contexts)

    monkeypatch.setattr(RotatedTopK, "compress", one)
    monkeypatch.setattr(RotatedTopK, "compress_many", all_)
    up = {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False}
    node = node_of(plan(False, federation=ROUNDS, uplink=up), tmp_path)
    asked = []
    for number in range(FIRST_NODE, FIRST_NODE + 4):
        member: Site = clientapp._site(node._context(number))
        digest = vector_digest(member.plan.first)
        blob = Instruction(bytes(8), 1, member.number, 0, digest, ()).encode()
        asked.append((number, flower.to_bytes(flower.ask(blob, number, "train", "1"))))
    codes = [flower.code_of(flower.from_bytes(reply)) for reply in node.handle_all(asked)]
    assert codes == [Code.FAILED, None, None, None]


def test_what_sites_had_in_common_ends_with_their_run(plan: Plan, tmp_path: Path) -> None:
    node = node_of(plan(federation=ROUNDS), tmp_path)
    member: Site = clientapp._site(node._context(FIRST_NODE))
    opening.together_of(member.plan)
    assert member.replicas is not None
    gone = weakref.ref(member), weakref.ref(member.replicas)
    del member
    close_all()
    gc.collect()
    assert opening._together == {} and not opening._states._known
    assert [one() for one in gone] == [None, None]
