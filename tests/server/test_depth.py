"""What the server does with the updates of weak sites, and with those of who says he is one.

Covers fedlite/depth.py, server/outcome.py, server/updates.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedlite
from fedlite import compression, depth, flower, plan as plans
from fedlite.compression import Decoded
from fedlite.messages import Hello, Reply, site_id
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.privacy import ClientMechanism
from fedlite.privacy.longest import longest
from fedlite.scenario import from_dict
from server.checkpoint import Checkpoint
from server.roster import Roster
from server.updates import Updates

RUN = b"\x07" * 8
WEAK = ("site-2", "site-4")
DENSE = {"compressor": "dense", "error_feedback": False}


def planned(**tables: dict[str, Any]) -> Plan:
    """Return the plan of four sites, two of which are weak."""
    base: dict[str, dict[str, Any]] = {
        "federation": {"sites": 4, "rounds": 4, "weak_sites": ", ".join(WEAK)},
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "uplink": DENSE,
        "downlink": {"compressor": "dense"},
    }
    names = {*base, *tables}
    made = {name: base.get(name, {}) | tables.get(name, {}) for name in names}
    return plans.of(from_dict(made), (1, 8, 8), 10)


class Round:
    """The server's side of a run's first round."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.small = plan, depth.early(plan)
        self.point = Checkpoint.before(RUN, plan)
        self.point.advance(plan, 1)
        self.updates = Updates(plan)
        self.updates.start(self.point, 1)

    def frame(self, name: str, vector: Vector, plan: Plan | None = None) -> bytes:
        """Return what a site sends by its plan, or by another."""
        plan = plan or depth.plan_of(self.plan, name)
        envelope = compression.Envelope(
            RUN, 1, site_id(name), plan.travelling.digest, self.point.down(plan).digest, 1
        )
        body = plan.up(1).compress(vector, envelope.context)
        return compression.pack(envelope, plan.up(1).codec, body)

    def send(self, name: str, value: float) -> None:
        size = depth.plan_of(self.plan, name).layout.size
        self.add(name, self.frame(name, np.full(size, value, np.float32)))

    def add(self, name: str, frame: bytes) -> None:
        (error,) = self.updates.add_many([(name, Reply(frame, None).encode())])
        if error is not None:
            raise error

    def moved(self) -> tuple[Vector, Vector]:
        """Return by how much the shallow branch has moved, and the tail."""
        delta = self.updates.finish().model - self.plan.initial
        mask = np.zeros(delta.size, bool)
        mask[depth.places(self.plan)] = True
        return delta[mask], delta[~mask]


def test_each_portion_is_the_mean_over_its_holders() -> None:
    one = Round(planned())
    for name, value in (("site-1", 1.0), ("site-2", 5.0), ("site-3", 3.0), ("site-4", 7.0)):
        one.send(name, value)
    shallow, tail = one.moved()
    np.testing.assert_allclose(shallow, 4.0, rtol=1e-6)
    np.testing.assert_allclose(tail, 2.0, rtol=1e-6)


def test_weak_sites_alone_leave_the_tail_and_strong_ones_alone_move_all() -> None:
    for name, tail_moves in (("site-2", False), ("site-1", True)):
        one = Round(planned(federation={"server_momentum": 0.9}))
        one.send(name, 1.0)
        shallow, tail = one.moved()
        assert (shallow != 0).all() and (tail != 0).all() == tail_moves == (tail != 0).any()


def hostile_frames(one: Round) -> dict[str, tuple[str, Callable[[], bytes], str]]:
    n, m = one.plan.layout.size, one.small.layout.size
    ones = np.ones(n, np.float32)
    whole = one.frame("site-2", ones, one.plan)
    strangers = replace(one.plan, layout=one.small.layout)

    def longer() -> bytes:
        """Its own header, and more values than its part has."""
        envelope = compression.Envelope(
            RUN,
            1,
            site_id("site-2"),
            one.small.travelling.digest,
            one.point.down(one.small).digest,
            1,
        )
        body = compression.Dense().compress(ones)
        return compression.pack(envelope, compression.Dense.codec, body)

    return {
        "tail values under its own name": ("site-2", lambda: whole, "layout|length"),
        "tail values under its own header": ("site-2", longer, "bytes|codec"),
        "a strong site's frame": ("site-2", lambda: one.frame("site-1", ones), "site|length"),
        "a weak frame from a strong site": (
            "site-1",
            lambda: one.frame("site-1", ones[:m], one.small),
            "layout",
        ),
        "the part's layout from the whole's base": (
            "site-2",
            lambda: one.frame("site-2", ones[:m], strangers),
            "base",
        ),
        "another weak site's frame": ("site-2", lambda: one.frame("site-4", ones[:m]), "site"),
    }


@pytest.mark.parametrize("kind", ["dense", "topk", "rotated-topk"])
def test_what_a_site_may_not_send_is_refused_and_moves_nothing(kind: str) -> None:
    link = {"compressor": kind, "error_feedback": False}
    if kind != "dense":
        link["density"] = 0.5
    one = Round(planned(uplink=link))
    for what, (name, made, why) in hostile_frames(one).items():
        with pytest.raises(ValueError, match=why):
            one.add(name, made())
            pytest.fail(f"{kind}: {what} was taken")
    shallow, tail = one.moved()
    assert not shallow.any() and not tail.any()


def test_a_weak_site_that_is_alone_of_its_kind_cannot_send_any_length() -> None:
    """Its length is held against that of the same portion of the others."""
    one = Round(planned(federation={"weak_sites": "site-2"}))
    for name, value in (("site-1", 1.0), ("site-2", 1e9), ("site-3", 1.0), ("site-4", 1.0)):
        one.send(name, value)
    shallow, tail = one.moved()
    np.testing.assert_allclose(shallow, 1.0, rtol=1e-5)
    np.testing.assert_allclose(tail, 1.0, rtol=1e-5)
    assert one.updates.cut == {"site-2": pytest.approx(1e9)}
    assert one.updates.medians == (pytest.approx(len(shallow) ** 0.5), len(tail) ** 0.5)


def test_a_tail_that_is_too_long_is_cut_by_itself() -> None:
    one = Round(planned(federation={"weak_sites": "site-4"}))
    n = one.plan.layout.size
    places = depth.places(one.plan)
    for name in ("site-1", "site-2", "site-3"):
        vector = np.full(n, 1.0 if name != "site-2" else 1e9, np.float32)
        vector[places] = 1.0
        one.add(name, one.frame(name, vector))
    one.send("site-4", 1.0)
    shallow, tail = one.moved()
    np.testing.assert_allclose(shallow, 1.0, rtol=1e-5)
    np.testing.assert_allclose(tail, 1.0, rtol=1e-5)
    assert set(one.updates.cut) == {"site-2"}


def test_a_strong_site_that_is_alone_of_its_kind_cannot_send_a_tail_of_any_length() -> None:
    """Nobody else trains the tail: it is held against the branch, value by value."""
    one = Round(planned(federation={"weak_sites": "site-2, site-3, site-4"}))
    for name in ("site-2", "site-3", "site-4"):
        one.send(name, 0.01)
    vector = np.full(one.plan.layout.size, 9e14, np.float32)
    vector[depth.places(one.plan)] = 0.01
    one.add("site-1", one.frame("site-1", vector))
    shallow, tail = one.moved()
    longest = 0.01 * (len(shallow) / min(len(shallow), len(tail))) ** 0.5
    np.testing.assert_allclose(tail, longest, rtol=1e-5)
    assert set(one.updates.cut) == {"site-1"}
    honest = Round(planned(federation={"weak_sites": "site-2, site-3, site-4"}))
    for name, value in (("site-1", 0.9), ("site-2", 0.01), ("site-3", 0.01), ("site-4", 0.01)):
        honest.send(name, value)
    _, tail = honest.moved()
    np.testing.assert_allclose(tail, 0.9, rtol=1e-5)
    assert not honest.updates.cut


CLIENT = {"unit": "client", "noise_at": "server", "clip": 0.5, "simulate_seed": 1}


def test_the_servers_noise_is_on_all_and_divided_by_who_was_asked_for_it() -> None:
    """By hand: updates cut to one bound, over four sites for the branch, over two for the tail."""
    clip = ClientMechanism(clip=0.5, noise_multiplier=1e-6, steps=4, at="server")
    quiet = Round(replace(planned(privacy=CLIENT), mechanism=clip))
    n, m = quiet.plan.layout.size, quiet.small.layout.size
    frames = {}
    for name in ("site-1", "site-2", "site-3", "site-4"):
        plan = depth.plan_of(quiet.plan, name)
        body = plan.up(1).compress(np.ones(plan.layout.size, np.float32))
        body = compression.pad(body, plan.up(1).limit(plan.layout.size), bytes(16))
        envelope = compression.Envelope(
            RUN, 1, site_id(name), plan.travelling.digest, quiet.point.down(plan).digest, 1
        )
        frames[name] = compression.pack(envelope, plan.up(1).codec, body)
        quiet.add(name, frames[name])
    shallow, tail = quiet.moved()
    # A strong site's values are 0.5 / sqrt(n), a weak one's 0.5 / sqrt(m).
    np.testing.assert_allclose(shallow, 0.5 * (2 / n**0.5 + 2 / m**0.5) / 4, rtol=1e-3)
    np.testing.assert_allclose(tail, 0.5 * (2 / n**0.5) / 2, rtol=1e-3)

    loud = ClientMechanism(clip=0.5, noise_multiplier=40.0, steps=4, at="server")
    noisy = Round(replace(planned(privacy=CLIENT), mechanism=loud))
    for name, frame in frames.items():
        noisy.add(name, frame)
    one, other = (a - b for a, b in zip(noisy.moved(), (shallow, tail), strict=True))
    assert one.std() == pytest.approx(40 * 0.5 / 4, rel=6 / np.sqrt(2 * len(one)))
    assert other.std() == pytest.approx(40 * 0.5 / 2, rel=6 / np.sqrt(2 * len(other)))
    # Not one stream twice.
    both = min(len(one), len(other))
    assert abs(np.corrcoef(one[:both], other[:both])[0, 1]) < 6 / both**0.5


def test_how_long_a_private_update_may_be_is_said_of_what_its_site_trains() -> None:
    privacy = {"unit": "client", "epsilon": 1.0, "noise_at": "site"}
    plan = planned(privacy=privacy)
    small = depth.early(plan)
    assert plan.mechanism is small.mechanism and isinstance(plan.mechanism, ClientMechanism)
    for one in (plan, small):
        most = longest(plan.mechanism, one.layout.size, steps=1, learning_rate=0.1, updates=16)
        assert one.update_norm == pytest.approx(1.01 * most)
    assert small.update_norm < plan.update_norm


def test_portions_are_cut_from_dense_and_sparse_updates_alike() -> None:
    plan = planned()
    rng = np.random.default_rng(0)
    dense = Decoded(plan.layout.size, None, rng.normal(size=plan.layout.size).astype(np.float32))
    at = np.sort(rng.choice(plan.layout.size, 400, replace=False))
    sparse = Decoded(plan.layout.size, at, dense.values[at])
    portions = depth.portions(plan, 1)
    assert [p.name for p in portions] == ["shallow", "tail"]
    assert sum(p.moving.size for p in portions) == plan.layout.size
    for update in (dense, sparse):
        parts = [depth.within(update, portion) for portion in portions]
        for part, portion in zip(parts, portions, strict=True):
            np.testing.assert_array_equal(part.dense(), update.dense()[portion.moving])
        whole = depth.together(parts, portions, plan.layout.size)
        np.testing.assert_array_equal(whole.dense(), update.dense())


def test_a_checkpoint_keeps_both_ways_down(tmp_path: Any) -> None:
    from server import checkpoint

    plan = planned(downlink={"compressor": "topk", "density": 0.2})
    point = Checkpoint.before(RUN, plan)
    for number in (1, 2, 3):
        point.advance(plan, number)
        point.round = number
        point.state = point.state.having(model=point.state.model + np.float32(number))
    checkpoint.save(tmp_path, point)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.early is not None and point.early is not None
    assert found.early.frames == point.early.frames and found.early.round == 3
    np.testing.assert_array_equal(found.early.replica, point.early.replica)
    assert found.broadcast.frames == point.broadcast.frames
    assert found.early.digest != found.broadcast.digest


class Nobody:
    """A grid with two nodes, of which each says what it is told to."""

    def __init__(self, hellos: dict[int, bytes]) -> None:
        self.hellos, self.replies = hellos, dict[str, Any]()

    def get_node_ids(self) -> list[int]:
        return list(self.hellos)

    def push_messages(self, messages: Any) -> list[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            flower.set_message_id(message, f"m{node}")
            answer = flower.answer(self.hellos[node], message)
            self.replies[f"m{node}"] = answer
            ids.append(f"m{node}")
        return ids

    def pull_messages(self, ids: Any) -> list[Any]:
        return [self.replies.pop(one) for one in list(ids) if one in self.replies]


def test_a_site_is_let_in_by_the_layout_of_what_it_trains_and_no_other() -> None:
    flower.identify(7, 0)
    plan = planned()
    whole, part = (one.travelling.digest.hex() for one in depth.kinds(plan))
    said = {1: ("site-1", whole), 2: ("site-2", part), 3: ("site-3", part), 4: ("site-4", whole)}
    hellos = {node: Hello(*one, fedlite.__version__).encode() for node, one in said.items()}
    grid: Any = Nobody(hellos)
    roster = Roster(
        grid, plan.scenario.federation, plan.travelling.digest, layouts=depth.layouts(plan)
    )
    roster.meet()
    assert roster.nodes == {"site-1": 1, "site-2": 2}
    assert roster.refused == {3: "config", 4: "config"}
