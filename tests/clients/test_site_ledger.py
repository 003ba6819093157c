"""A private site spends what its ledger holds, and no step before it is there.

Covers fedlite/guard/guardian.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlite.guard.guardian import Guardian
from fedlite.guard.policy import SitePolicy
from fedlite.guard.policy_file import write
from fedlite.identity import keys
from fedlite.messages import Code, Receipt
from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import Ledger, LedgerBusy, read
from fedlite.privacy.ledger.rows import witness_message
from tests.clients.stub import (
    PowerCut,
    StubLearner,
    changed,
    invite,
    private,
    refused,
    scenario,
    spent,
    stub,
)


def test_a_repeated_message_gets_the_same_frame_and_spends_nothing(tmp_path: Path) -> None:
    member = private(tmp_path, steps=1)
    instruction = invite(1, StubLearner.initial)
    first = member.take_part(instruction)
    assert first.head is not None and first.head.ledger
    before = member.path.read_bytes()
    assert member.take_part(instruction) == first
    assert private(tmp_path, steps=1).take_part(instruction) == first
    assert member.path.read_bytes() == before
    assert spent(member) == (1, 1)
    assert len(member.learner.deltas) == 1  # type: ignore[attr-defined]


def test_steps_are_on_disk_before_the_first_is_taken_and_end_with_the_plan(
    tmp_path: Path,
) -> None:
    member = private(tmp_path, steps=2)
    base = StubLearner.initial
    member.learner.failing = True  # type: ignore[attr-defined]
    with pytest.raises(PowerCut):
        member.take_part(invite(1, base))
    assert spent(member) == (2, 0)
    # A crash costs that round's steps: a restarted site has one round left, not two.
    again = private(tmp_path, steps=2)
    again.take_part(invite(1, base))
    before = again.path.read_bytes()
    assert refused(again, invite(2, base, acknowledged=1)) is Code.BUDGET
    assert again.path.read_bytes() == before
    assert spent(again) == (4, 1)
    assert len(again.learner.deltas) == 1  # type: ignore[attr-defined]
    assert again.take_part(invite(1, base))


def test_an_update_that_was_stored_but_not_yet_recorded_is_recorded_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, instruction = private(tmp_path, steps=1), invite(1, StubLearner.initial)
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "release", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            member.take_part(instruction)
    assert spent(member) == (1, 0)
    reply = member.take_part(instruction)
    assert spent(member) == (1, 1) and reply.head is not None
    assert len(member.learner.deltas) == 1  # type: ignore[attr-defined]


def test_a_private_site_without_a_ledger_does_not_train(tmp_path: Path) -> None:
    member = changed(private(tmp_path, steps=1), home=None)
    assert refused(member, invite(1, StubLearner.initial)) is Code.CONFIG
    assert not member.learner.deltas  # type: ignore[attr-defined]


@pytest.mark.parametrize(("units", "private_run"), [(("record",), False), (("none",), True)])
def test_a_unit_that_the_policy_does_not_allow_is_declined_before_training(
    tmp_path: Path, units: tuple[str, ...], private_run: bool
) -> None:
    member = private(tmp_path, steps=1)
    assert member.guardian.home is not None
    write(member.guardian.home.path / "site.toml", SitePolicy(site="site-01", units=units))
    if not private_run:
        member = changed(member, stub(scenario()))
    assert refused(member, invite(1, StubLearner.initial)) is Code.POLICY
    assert not member.guardian.home.ledger.exists() if member.guardian.home else True
    assert not member.learner.deltas  # type: ignore[attr-defined]


def test_a_server_that_has_seen_more_than_the_site_has_stops_it(tmp_path: Path) -> None:
    member, base = private(tmp_path, steps=1), StubLearner.initial
    server = keys.generate(tmp_path / "server.pem")

    def receipt(seq: int, digest: str) -> Receipt:
        assert member.guardian.home is not None
        ledger = read(member.guardian.home.ledger)[0].hash
        signature = keys.sign(server, witness_message(ledger, seq, digest))
        return Receipt(bytes.fromhex(keys.public_hex(server)), seq, bytes.fromhex(signature))

    first = member.take_part(invite(1, base)).head
    assert first is not None
    good = receipt(first.seq, first.hash.hex())
    later = replace(invite(2, base, acknowledged=1), receipt=good)
    second = member.take_part(later).head
    # The server has shown that it knows the ledger, so its names are not sent again.
    assert second is not None and second.seq > first.seq and not second.ledger
    spent_before = spent(member)
    for seq, digest in ((second.seq + 1, second.hash.hex()), (first.seq, "00" * 32)):
        asked = replace(invite(3, base, acknowledged=2), receipt=receipt(seq, digest))
        assert refused(member, asked) is Code.LEDGER
    assert spent(member) == spent_before


@pytest.mark.parametrize("lasting", [True, False])
def test_a_ledger_is_held_for_a_round_only_where_nobody_else_can_want_it(
    tmp_path: Path, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = private(tmp_path, steps=2)
    member = replace(member, guardian=replace(member.guardian, lasting=lasting))
    home = member.guardian.home
    assert isinstance(member.guardian, Guardian) and home is not None
    opened, meanwhile = [], []
    ledger_open = Ledger.open

    def counted(*given: Any, **more: Any) -> Ledger:
        opened.append(given)
        return ledger_open(*given, **more)

    rounds = member.part(invite(1, StubLearner.initial))
    monkeypatch.setattr(Ledger, "open", counted)
    asked = next(rounds)
    # While the site trains, another run at it may spend, unless its home ends with this run.
    try:
        ledger_open(home.ledger, home.key()).close()
    except LedgerBusy:
        meanwhile.append("busy")
    assert spent(member) == (2, 0), "steps are on disk before the first of them, held or not"
    packing = rounds.send(asked.alone())
    with pytest.raises(StopIteration):
        rounds.send(packing.alone())
    assert meanwhile == ([] if lasting else ["busy"])
    assert len(opened) == (3 if lasting else 1)
    assert [row.kind for row in read(home.ledger)] == ["genesis", "reserve", "settle", "release"]
    # It is let go, whether the round ends or not.
    rounds = member.part(invite(2, StubLearner.initial, acknowledged=1))
    next(rounds)
    rounds.close()
    ledger_open(home.ledger, home.key()).close()


def test_a_held_ledger_is_opened_when_the_budget_is_asked_for_and_its_head_is_read_meanwhile(
    tmp_path: Path,
) -> None:
    member = private(tmp_path, steps=1)
    member = replace(member, guardian=replace(member.guardian, lasting=False))
    home = member.guardian.home
    assert isinstance(member.guardian, Guardian) and home is not None
    home.ledger.parent.mkdir(parents=True, exist_ok=True)
    home.ledger.write_bytes(b"damaged\n")
    told = (home.path / "site.toml").read_text()
    write(home.path / "site.toml", SitePolicy(site="site-01", units=("none",)))
    # What the policy does not allow is declined for that, before a ledger is looked at.
    assert refused(member, invite(1, StubLearner.initial)) is Code.POLICY
    (home.path / "site.toml").write_text(told)
    home.ledger.unlink()
    rounds = member.part(invite(1, StubLearner.initial))
    next(rounds)
    # As when the run is resumed beside a worker that goes on: it need not wait for it.
    again = private(tmp_path, steps=1)
    head = replace(again, guardian=replace(again.guardian, lasting=False)).hello().head
    last = read(home.ledger)[-1]
    assert head is not None and (head.seq, head.hash.hex()) == (last.seq, last.hash)
    assert head.ledger.hex() == read(home.ledger)[0].hash
    assert head.key.hex() == keys.public_hex(home.key())
    rounds.close()
