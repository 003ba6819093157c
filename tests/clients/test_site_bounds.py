"""Deltas, models and demands beyond every bound are refused.

Covers clients/failing.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.state import load
from fedlite import compression
from fedlite.guard.folder import open_home
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import for_scenario
from fedlite.messages import Code
from fedlite.parameters import LARGEST_DELTA, LARGEST_WEIGHT, Vector, vector_digest
from fedlite.plan import compressor as compressor_of
from fedlite.privacy import ClientMechanism, RecordMechanism
from tests.clients.stub import (
    LAYOUT,
    RUN,
    N,
    StubLearner,
    changed,
    decoded,
    invite,
    private,
    refused,
    scenario,
    site,
)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e26, -1.01 * LARGEST_DELTA])
def test_a_diverged_delta_is_refused_and_nothing_of_it_is_kept(
    tmp_path: Path, value: float
) -> None:
    member = site(tmp_path)
    base = StubLearner.initial
    member.take_part(invite(1, base))
    before = member.path.read_bytes()
    honest = member.learner.delta
    member.learner.delta = lambda *a: np.full(N, value, np.float32)  # type: ignore[method-assign]
    assert refused(member, invite(2, base, acknowledged=1)) is Code.DATA
    assert member.path.read_bytes() == before
    member.learner.delta = honest  # type: ignore[method-assign]
    member.take_part(invite(3, base, acknowledged=1))
    state = load(member.path)
    assert state is not None and state.pending is not None
    assert np.abs(state.pending.unsent).max() < 100


@pytest.mark.parametrize("value", [np.nan, 1e26])
def test_a_site_whose_clear_update_diverged_is_heard_where_the_server_adds_the_noise(
    tmp_path: Path, value: float
) -> None:
    """Who sends is public there: whether it does may not hang on the site's records."""
    plan = scenario(
        federation={"rounds": 4},
        privacy={"unit": "client", "noise_at": "server", "epsilon": 90.0, "clip": 1.0},
        uplink={"compressor": "dense", "error_feedback": False},
    )
    home = open_home(tmp_path / "home", "site-01", "digits", for_scenario(plan, "site-01"))
    member = site(tmp_path, plan, ClientMechanism(1.0, 1.0, steps=4, at="server"))
    member = changed(member, home=home, commitment=lambda: "ab" * 32)
    member.learner.delta = lambda *a: np.full(N, value, np.float32)  # type: ignore[method-assign]
    payload = member.take_part(invite(1, StubLearner.initial)).frame
    assert not decoded(payload, 1, StubLearner.initial, plan).any()


PRIVATE: list[dict[str, Any]] = [
    {"unit": "record", "epsilon": 90.0, "expected_batch": 5},
    {"unit": "client", "noise_at": "site", "epsilon": 90.0, "clip": 1.0},
    {"unit": "client", "noise_at": "server", "epsilon": 90.0, "clip": 1.0},
]


@pytest.mark.parametrize("privacy", PRIVATE, ids=["record", "client-site", "client-server"])
def test_under_privacy_whatever_goes_wrong_in_training_ends_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, privacy: dict[str, Any]
) -> None:
    """Which error it was may hang on the records, and a code is seen."""
    dense = {"compressor": "dense", "error_feedback": False}
    tables = {"federation": {"rounds": 4}, "training": {"steps": 1}}
    plan = scenario(**tables, privacy=privacy, uplink=dense)
    wrong = [ValueError("not a number"), RuntimeError("inf"), MemoryError(), OSError("disk"), None]
    told = set()
    for number, error in enumerate(wrong):
        home = open_home(tmp_path / str(number), "site-01", "digits", for_scenario(plan, "site-01"))
        mechanism = (
            RecordMechanism(1.0, 1.0, 1.0, steps=4, expected_batch=5)
            if privacy["unit"] == "record"
            else ClientMechanism(1.0, 1.0, steps=4, at=privacy["noise_at"])
        )
        member = site(tmp_path / f"site-{number}", plan, mechanism)
        member = changed(member, home=home, commitment=lambda: "ab" * 32)

        def learn(*a: object, error: Exception | None = error) -> Vector:
            if error is not None:
                raise error
            return np.full(N, np.nan, np.float32)

        member.learner.delta = learn  # type: ignore[method-assign]
        try:
            payload = member.take_part(invite(1, StubLearner.initial)).frame
        except Decline as decline:
            told.add((decline.code, str(decline)))
        else:
            assert not decoded(payload, 1, StubLearner.initial, plan).any()
            told.add((None, ""))
    heard = privacy.get("noise_at") == "server"
    assert len(told) == 1 and {one for one, _ in told} == ({None} if heard else {Code.FAILED})
    assert "not a number" in caplog.text, "the site's own log has what it was"


def test_a_delta_at_the_bound_is_sent(tmp_path: Path) -> None:
    member = site(tmp_path)
    edge = np.full(N, LARGEST_DELTA, np.float32)
    member.learner.delta = lambda *a: edge  # type: ignore[method-assign]
    payload = member.take_part(invite(1, StubLearner.initial)).frame
    sent = decoded(payload, 1, StubLearner.initial, member.scenario)
    assert sent.max() == pytest.approx(LARGEST_DELTA)


def test_what_a_server_may_ask_for_is_bounded_by_the_plan(tmp_path: Path) -> None:
    member = site(tmp_path, scenario(federation={"rounds": 6}))
    base = StubLearner.initial
    frames = [b"FL" + bytes(40)] * 7
    assert refused(member, invite(6, base, *frames)) is Code.BAD_INSTRUCTION
    assert refused(member, invite(7, base)) is Code.BAD_INSTRUCTION
    assert refused(member, invite(1, base, *frames[:2])) is Code.BAD_INSTRUCTION
    assert not member.path.exists()
    assert member.take_part(invite(6, base)).frame


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.01 * LARGEST_WEIGHT, 3e38])
def test_a_model_with_absurd_weights_is_refused_before_a_record_is_touched(
    tmp_path: Path, value: float
) -> None:
    member = private(tmp_path, steps=1)
    hostile = StubLearner.initial.copy()
    hostile[7] = value
    code = refused(member, invite(2, hostile, full_model(hostile)))
    # The codec has no word for what is not finite: such a frame leads to no model at all.
    assert code is (Code.BAD_INSTRUCTION if np.isfinite(value) else Code.NEED_FULL_MODEL)
    assert not member.learner.deltas and not member.path.exists()  # type: ignore[attr-defined]
    assert member.guardian.home is not None and not member.guardian.home.ledger.exists(), (
        "nothing was spent"
    )
    hostile[7] = LARGEST_WEIGHT
    assert member.take_part(invite(2, hostile, full_model(hostile))).frame


def full_model(model: Vector) -> bytes:
    """Return the frame of round 2 that is this whole model, whatever is in it."""
    envelope = compression.Envelope(RUN, 2, 0, LAYOUT.digest, bytes(8))
    return compression.pack(envelope, compression.Dense().codec, model.astype("<f4").tobytes(), 0)


def test_a_chain_that_adds_up_to_infinity_is_not_taken(tmp_path: Path) -> None:
    plan = scenario(downlink={"density": 0.05, "values": "fp32"})
    member = site(tmp_path, plan)
    base = np.full(N, 3e38, np.float32)
    dense, sparse = compression.Dense(), compressor_of(plan.downlink)
    full = compression.Envelope(RUN, 4, 0, LAYOUT.digest, bytes(8))
    step = compression.Envelope(RUN, 5, 0, LAYOUT.digest, vector_digest(base))
    body = sparse.compress(base, step.context)
    end = base.copy()
    with np.errstate(over="ignore"):
        sparse.decompress(body, N, step.context).add_to(end, 1.0)
    frames = (
        compression.pack(full, dense.codec, dense.compress(base)),
        compression.pack(step, sparse.codec, body),
    )
    assert np.isinf(end).any()
    assert refused(member, invite(5, end, *frames)) is Code.NEED_FULL_MODEL
    assert not member.path.exists()
