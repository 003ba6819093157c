"""Rounds under masks by real messages: the model is that of plain sums, whoever drops out when.

Covers clients/sums.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Message

from fedlite import flower, plan as plans
from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.privacy.ledger import read
from fedlite.privacy.shared.summed import residues, values
from fedlite.reporting.record import RoundRecord, read_rounds
from fedlite.scenario import Scenario, from_dict
from fedlite.secure.group import Card
from fedlite.secure.messages import Note, Step, is_note
from fedlite.secure.rules import Refused
from fedlite.training import Learner
from server.app import Task, run_scenario
from server.rounds import RunFailed
from simulations.engines import Serial
from simulations.grid import SimulationGrid
from simulations.node import FIRST_NODE, Node
from strategies import ServerState, make, weighted_mean

RUN, ROUNDS = 7, 3


def scenario(seed: int = 3, **tables: dict[str, Any]) -> Scenario:
    base: dict[str, dict[str, Any]] = {
        "federation": {
            "rounds": ROUNDS,
            "sites": 5,
            "quorum": 4,
            "server_momentum": 0.5,
            "deadline_seconds": 20.0,
        },
        "model": {"name": "mlp"},
        "training": {"steps": 1, "learning_rate": 0.5},
        "uplink": {"compressor": "randk", "density": 0.2, "densities": "exit 0.5"},
        "downlink": {"compressor": "dense"},
        "privacy": {"unit": "record", "noise_at": "shared", "simulate_seed": seed},
    }
    return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in {*base, *tables}})


class Lossy(SimulationGrid):
    """A grid that loses what it is told to: by round, step (None: the vector) and site's number."""

    lost: set[tuple[int, Step | None, int]]
    spoilt: dict[Step, bytes]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        kept, ids = [], []
        for message in messages:
            site = message.metadata.dst_node_id - FIRST_NODE
            if self.key(message) is not None and (*self.key(message), site) in self.lost:
                ids.append("")
                continue
            kept.append(message)
        return ids + super().push_messages(kept)

    @staticmethod
    def key(message: Message) -> tuple[int, Step | None] | None:
        if message.metadata.message_type != "train":
            return None
        blob = flower.unwrap(message)
        if is_note(blob):
            note = Note.decode(blob)
            return note.round, note.step
        return int(message.metadata.group_id), None


def play(
    directory: Path, given: Scenario, lost: Iterable[tuple[int, Step | None, int]] = ()
) -> list[RoundRecord]:
    sites = given.federation.sites
    grid = Lossy(RUN, sites, Serial(Node(RUN, sites, given.to_run_config(), directory / "sites")))
    grid.lost = set(lost)
    run = RUN.to_bytes(8, "little")
    run_scenario(grid, given, Task(directory, run, "serial", quiet=True))
    return read_rounds(directory)


def model(directory: Path) -> Vector:
    found = safetensors.numpy.load_file(directory / "model.safetensors")
    return np.concatenate([found[name].ravel() for name in sorted(found)])


def plainly(given: Scenario, absent: dict[int, set[int]]) -> tuple[Plan, Vector]:
    """Return the model of the same run, in which all who are there hand their parts in openly."""
    plan, _, sites = plans.simulated(given)
    mechanism = plan.shared
    assert mechanism is not None
    from fedlite.messages import site_id

    learners = [Learner(plan, site.train) for site in sites]
    state, rule = ServerState.initial(plan.initial), make(plan.scenario.federation, weighted_mean)
    for number in range(1, ROUNDS + 1):
        parts = [
            learner.units(state.model, number, site_id(site.name), mechanism)
            for at, (learner, site) in enumerate(zip(learners, sites, strict=True))
            if at not in absent.get(number, ())
        ]
        total = values(residues(np.sum(parts, axis=0), mechanism.bits), mechanism)
        support = plan.support(number)
        rate = 1.0
        if mechanism.unit == "record":
            rate = -plan.learning_rate(number) / mechanism.expected_batch
        step = (total * support.factors * (rate / mechanism.sites)).astype(np.float32)
        rule.start(plan.layout.size)
        rule.add(Decoded(plan.layout.size, support.indices, step), 0)
        state = rule.finish(state, number)
    return plan, state.deployed


def flat(plan: Plan, vector: Vector) -> Vector:
    named = dict(
        zip(plan.layout.names, np.split(vector, np.cumsum(plan.layout.sizes)[:-1]), strict=True)
    )
    return np.concatenate([named[name] for name in sorted(named)])


@pytest.mark.long
@pytest.mark.parametrize(
    ("lost", "absent"),
    [
        ([], {}),
        ([(2, None, 1)], {2: {1}}),
        ([(1, None, 0), (2, Step.SIGN, 3), (3, Step.OPEN, 4)], {1: {0}}),
    ],
    ids=["nobody", "one before its vector", "one in each step"],
)
def test_the_model_is_that_of_plain_sums(
    tmp_path: Path,
    lost: list[tuple[int, Step | None, int]],
    absent: dict[int, set[int]],
) -> None:
    records = play(tmp_path, scenario(), lost)
    plan, wanted = plainly(scenario(), absent)
    np.testing.assert_allclose(model(tmp_path), flat(plan, wanted), rtol=2e-6, atol=1e-9)
    assert [r.accepted for r in records] == [5 - len(absent.get(n, ())) for n in (1, 2, 3)]
    assert [len(r.missing) for r in records] == [len(absent.get(n, ())) for n in (1, 2, 3)]


def test_a_round_with_too_few_is_none_and_three_of_them_end_the_run(tmp_path: Path) -> None:
    lost = [(2, None, 0), (2, None, 1)]
    records = play(tmp_path / "one", scenario(), lost)
    assert [r.accepted for r in records] == [5, 0, 5]
    lost = [(n, Step.SIGN, site) for n in (1, 2, 3) for site in (0, 1)]
    with pytest.raises(RunFailed, match=r"federation\.quorum: 4 updates a round are needed"):
        play(tmp_path / "all", scenario(), lost)
    for record in read_rounds(tmp_path / "all"):
        assert set(record.dropped) == {"site-01", "site-02"}, "the others have done their part"


@pytest.mark.long
def test_a_run_that_was_cut_off_in_a_step_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    class Cut(Lossy):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            kept = list(messages)
            if any(self.key(message) == (2, Step.OPEN) for message in kept):
                raise OSError("power cut")
            return super().push_messages(kept)

    given, run = scenario(), RUN.to_bytes(8, "little")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    grid = Cut(RUN, 5, Serial(Node(RUN, 5, given.to_run_config(), cut / "sites")))
    grid.lost = set()
    with pytest.raises(OSError, match="power cut"):
        run_scenario(grid, given, Task(cut, run, "serial", quiet=True))
    play(cut, given)
    play(whole, given)
    assert model(cut).tobytes() == model(whole).tobytes()


@pytest.mark.long
def test_a_site_refuses_before_anything_is_spent(tmp_path: Path) -> None:
    """Without a group, for an earlier round, and for another model of a round that it masked."""
    from clients.opening import open_simulated_site
    from fedlite.guard.guardian import Decline
    from fedlite.messages import Instruction, site_id
    from fedlite.parameters import vector_digest

    given, run = scenario(seed=-1), RUN.to_bytes(8, "little")
    play(tmp_path, given)
    site = open_simulated_site(given, 0, tmp_path / "sites")
    (ledger,) = tmp_path.glob("sites/homes/site-01/ledgers/*.jsonl")
    before = ledger.read_bytes()
    first = Instruction(run, 1, site_id("site-01"), 0, vector_digest(site.plan.first), ())
    site.path.unlink()
    with pytest.raises(Decline, match=r"^one-sum: round 1 was asked for after round 3"):
        site.take_part(first)
    with pytest.raises(Decline, match=r"^one-sum: .* for another model"):
        site.take_part(replace(first, round=3))
    site.path.with_suffix(".sums").unlink()
    with pytest.raises(Decline, match=r"^order: no group of this run was joined"):
        site.take_part(first)
    assert ledger.read_bytes() == before


def test_a_site_put_back_to_an_older_copy_masks_no_round_twice(tmp_path: Path) -> None:
    """Otherwise the server takes one vector off the other, and their difference stands bare."""
    from clients.opening import open_simulated_site
    from clients.state import load, save
    from fedlite.guard.guardian import Decline
    from fedlite.messages import Code, Instruction, site_id
    from fedlite.secure.member import Member

    given, run = scenario(seed=-1), RUN.to_bytes(8, "little")
    play(tmp_path, given)
    site = open_simulated_site(given, 0, tmp_path / "sites")
    (ledger,) = tmp_path.glob("sites/homes/site-01/ledgers/*.jsonl")
    rows = read(ledger)
    state = load(site.path)
    assert state is not None and state.pending is not None
    again = Instruction(run, ROUNDS, site_id("site-01"), 0, state.pending.base, ())
    sent = state.pending.payload
    # Only the frame was lost: the same leaves again, and nothing more is spent.
    state.pending = None
    save(site.path, state)
    assert site.take_part(again).frame == sent
    assert read(ledger) == rows
    # What it masked was lost too.
    path = site.path.with_suffix(".sums")
    member = Member.load(path.read_bytes())
    path.write_bytes(replace(member, round=ROUNDS - 1).dump())
    save(site.path, state)
    with pytest.raises(Decline, match=r"^round-twice: round 3 ") as caught:
        site.take_part(again)
    assert caught.value.code is Code.FAILED, "one round is lost, and no more"
    assert [row.kind for row in read(ledger)[len(rows) :]] == ["refuse"]
    assert Member.load(path.read_bytes()).round == ROUNDS - 1


def test_a_group_is_made_of_all_sites_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^members: all 5 sites make the group .* 4 are there"):
        play(tmp_path, scenario(), [(0, Step.CARD, 2)])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda own, other: own.encode()[:-1], r"form: a card's name must be a site's"),
        (lambda own, other: b"", r"form: a card has at least 137 bytes, got 0"),
        (lambda own, other: replace(own, signature=bytes(64)).encode(), r"members: .* not signed"),
        (lambda own, other: other.encode(), r"not-a-member: its card is of 'site-02'"),
    ],
    ids=["cut", "empty", "forged", "another's"],
)
def test_a_site_whose_card_cannot_be_used_is_named(tmp_path: Path, how: Any, why: str) -> None:
    cards: dict[int, Card] = {}

    class Liar(Lossy):
        """The third site changes its card."""

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            found = super().pull_messages(message_ids)
            for message in sorted(found, key=lambda one: one.metadata.src_node_id):
                site = message.metadata.src_node_id - FIRST_NODE
                blob = b"" if message.has_error() else flower.unwrap(message)
                if is_note(blob) and Note.decode(blob).step is Step.CARD:
                    note = Note.decode(blob)
                    cards[site] = Card.decode(note.body)
                    if site == 2:
                        spoilt = replace(note, body=how(cards[2], cards[1]))
                        message.content = flower.ask(spoilt.encode(), 1, "train", "sum").content
            return found

    given = scenario()
    grid = Liar(RUN, 5, Serial(Node(RUN, 5, given.to_run_config(), tmp_path / "sites")))
    grid.lost = set()
    with pytest.raises(Refused, match=rf"^members: all 5 .* 4 are there.*; site-03: {why}"):
        run_scenario(grid, given, Task(tmp_path, RUN.to_bytes(8, "little"), "serial", quiet=True))


def test_a_site_that_did_not_hear_of_the_group_joins_in_a_later_round(tmp_path: Path) -> None:
    class Once(set[Any]):
        """Lost the first time only."""

        def __contains__(self, key: object) -> bool:
            there = super().__contains__(key)
            self.discard(key)
            return there

    given = scenario()
    grid = Lossy(RUN, 5, Serial(Node(RUN, 5, given.to_run_config(), tmp_path / "sites")))
    grid.lost = Once([(0, Step.JOIN, 2)])
    run_scenario(grid, given, Task(tmp_path, RUN.to_bytes(8, "little"), "serial", quiet=True))
    assert [r.accepted for r in read_rounds(tmp_path)] == [4, 5, 5]


def test_a_claimed_run_keeps_ledgers_and_says_on_whom_its_epsilon_rests(tmp_path: Path) -> None:
    from fedlite.audit import audit

    given = scenario(seed=-1)
    records = play(tmp_path, given)
    assert [r.accepted for r in records] == [5, 5, 5]
    summary = json.loads((tmp_path / "summary.json").read_text())
    shared = summary["privacy"]["shared"]
    assert (shared["sites"], shared["least"], shared["honest"], shared["noise_of"]) == (5, 4, 4, 3)
    assert list(shared["epsilon"]) == ["2", "3", "4", "5"]
    assert shared["epsilon"]["4"] == pytest.approx(3.0, abs=0.01)
    assert shared["alone"] == shared["epsilon"]["2"] > 5
    plans_ = [
        row.body["plan"]
        for row in read(next(tmp_path.glob("sites/homes/site-01/ledgers/*.jsonl")))
        if "plan" in row.body and isinstance(row.body["plan"], dict)
    ]
    assert [(p["unit"], p["members"], p["least"], p["honest"]) for p in plans_] == [
        ("record-shared", 5, 4, 4)
    ]
    found = audit([tmp_path, *tmp_path.glob("sites/homes/*/ledgers")])
    assert found.clean
    said = found.statements[0].sentence
    assert "if at least 4 of 5 members are honest; 5." in said
    assert "if all others collude with the server" in said
    # Nobody can say later that more, or others, were relied on than the sites committed to.
    forged = {name: shared[name] - 1 for name in ("sites", "least", "honest", "coordinates")}
    changed = {**summary, "privacy": {**summary["privacy"], "shared": {**shared, **forged}}}
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    again = audit([tmp_path, *tmp_path.glob("sites/homes/*/ledgers")])
    told = [issue.text for issue in again.findings if issue.rule == "summary-mismatch"]
    assert not again.clean
    for name, value in forged.items():
        assert any(f"shared.{name} {value}, committed {shared[name]}" in text for text in told)
    # Nor that what is left with all others colluding is less than the noise of one makes it.
    rosy = {**shared, "noise_of": 4, "alone": 0.5, "epsilon": dict.fromkeys(shared["epsilon"], 0.4)}
    changed = {**summary, "privacy": {**summary["privacy"], "shared": rosy}}
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    again = audit([tmp_path, *tmp_path.glob("sites/homes/*/ledgers")])
    told = [
        i.text for i in again.findings if i.rule == "summary-understates" and "shared" in i.text
    ]
    assert len(told) == 5 * (1 + len(shared["epsilon"]))


@pytest.mark.long
def test_what_leaves_a_site_says_nothing_of_its_vector(tmp_path: Path) -> None:
    """The packed values of one site over all rounds, as the server has them, are uniform bits."""
    seen: list[bytes] = []

    class Watching(Lossy):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            found = super().pull_messages(message_ids)
            for message in found:
                if message.metadata.src_node_id == FIRST_NODE and not message.has_error():
                    blob = flower.unwrap(message)
                    if blob[:2] == b"FL":
                        seen.append(blob[28 + 8 :])
            return found

    given = scenario(federation={"rounds": 6, "sites": 5, "quorum": 4})
    grid = Watching(RUN, 5, Serial(Node(RUN, 5, given.to_run_config(), tmp_path / "sites")))
    grid.lost = set()
    run_scenario(grid, given, Task(tmp_path, RUN.to_bytes(8, "little"), "serial", quiet=True))
    assert len(seen) == 6
    bits = np.unpackbits(np.frombuffer(b"".join(one[:-1] for one in seen), np.uint8))
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / bits.size**0.5
    pairs = np.bincount(
        bits[: bits.size // 8 * 8].reshape(-1, 8) @ (1 << np.arange(8)), minlength=256
    )
    expected = pairs.sum() / 256
    assert ((pairs - expected) ** 2 / expected).sum() < 256 + 8 * (2 * 256) ** 0.5
