"""A site with a learner of known deltas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.site import Site
from fedlite import compression
from fedlite.guard.folder import open_home
from fedlite.guard.guardian import Decline, Guardian
from fedlite.guard.policy import for_scenario
from fedlite.messages import Code, Instruction, site_id
from fedlite.parameters import Layout, Vector, vector_digest
from fedlite.plan import Plan, compressor as compressor_of
from fedlite.privacy import RecordMechanism
from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Share

N, RUN = 300, b"run-0001"
LAYOUT = Layout(("w",), ((N,),))
MECHANISM = RecordMechanism(1.0, 1.0, 1.0, steps=4, expected_batch=1)


class PowerCut(BaseException):
    """The process is gone: nobody answers for it."""


class StubLearner:
    """Deltas from nothing but round and site; the same numbers each time."""

    layout = LAYOUT
    initial = np.linspace(-1, 1, N).astype(np.float32)
    labels = np.zeros(17)

    def __init__(self) -> None:
        self.deltas: list[Vector] = []
        self.failing = False

    def delta(self, received: Vector, number: int, site: int, mechanism: Any) -> Vector:
        if self.failing:
            raise PowerCut
        rng = np.random.default_rng([number, site, len(self.deltas)])
        self.deltas.append(rng.normal(size=N).astype(np.float32))
        return self.deltas[-1]

    def share(self, *given: Any) -> Share:
        return Share(self.delta(*given[:4]), {})


def scenario(**tables: dict[str, Any]) -> Scenario:
    return from_dict({"uplink": {"density": 0.05}, "downlink": {"density": 0.05}} | tables)


def site(tmp_path: Path, plan: Scenario | None = None, mechanism: Any = None) -> Site:
    learner: Any = StubLearner()
    made = stub(plan or scenario(), mechanism)
    guard = Guardian("site-01", made.scenario, mechanism, None, lambda: "")
    return Site(made, "site-01", learner, tmp_path / "s.safetensors", guard)


def stub(settings: Scenario, mechanism: Any = None) -> Plan:
    return Plan(settings, (N,), 2, LAYOUT, StubLearner.initial, mechanism)


def invite(
    number: int, base: Vector, *frames: bytes, acknowledged: int = 0, name: str = "site-01"
) -> Instruction:
    return Instruction(RUN, number, site_id(name), acknowledged, vector_digest(base), frames)


def decoded(payload: bytes, number: int, base: Vector, plan: Scenario) -> np.ndarray:
    link = plan.uplink
    compressor = compressor_of(link)
    envelope = compression.Envelope(
        RUN, number, site_id("site-01"), LAYOUT.digest, vector_digest(base), plan.federation.seed
    )
    padded = plan.noised_at_server
    limit = compressor.limit(N) + compression.PAD_BYTES * padded
    _, _, body = compression.unpack(payload, envelope, limit=limit)
    body = compression.unpad(body) if padded else body
    return compressor.decompress(body, N).dense()


def refused(site: Site, instruction: Instruction) -> Code:
    with pytest.raises(Decline) as caught:
        site.take_part(instruction)
    return caught.value.code


def spent(member: Site) -> tuple[int, int]:
    """Return steps reserved and updates released, as the ledger has them."""
    assert member.guardian.home is not None
    rows = read(member.guardian.home.ledger)
    reserved = sum(row.body["steps"] for row in rows if row.kind == "reserve")
    return reserved, sum(row.kind == "release" for row in rows)


def changed(member: Site, plan: Plan | None = None, **guarded: Any) -> Site:
    """Return the site with another plan, or with what its guardian has changed."""
    plan = plan or member.plan
    given: Any = {"scenario": plan.scenario, "mechanism": plan.mechanism, **guarded}
    return replace(member, plan=plan, guardian=replace(member.guardian, **given))  # type: ignore[type-var]


def private(tmp_path: Path, steps: int) -> Site:
    """Return a site whose plan has four steps, with a ledger in `tmp_path`."""
    plan = scenario(
        federation={"rounds": 4 // steps},
        training={"steps": steps},
        privacy={"unit": "record", "epsilon": 90.0, "expected_batch": 1},
    )
    home = open_home(tmp_path / "home", "site-01", "digits", for_scenario(plan, "site-01"))
    member = site(tmp_path, plan, MECHANISM)
    member = changed(member, home=home, commitment=lambda: "ab" * 32)
    return replace(member, commitment="ab" * 32)
