"""A run number is the coordinator's: what was joined by it is held against what is approved now.

Covers clients/sums.py, clients/runtime/masking.py, clients/runtime/desk.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import MessageType

from clients.runtime import approval, desk
from clients.runtime.masking import FOLDER
from fedlite.deployment import bundle as bundles
from fedlite.guard import egress
from fedlite.guard.guardian import Decline
from fedlite.identity import keys
from fedlite.messages import Reply
from fedlite.scenario import with_values
from fedlite.secure.member import Member
from fedlite.secure.messages import Step
from tests.clients.runtime.hospitals import BUNDLE, NAMES, RUN, Hospitals, Site, scenario
from tests.clients.runtime.test_sharing import VALUES, bundle

FIRST = NAMES[0]


@pytest.fixture
def four(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("second", [BUNDLE, "c" * 64], ids=["same file", "another bundle"])
def test_a_group_of_a_list_that_was_revoked_masks_nothing_for_the_next(
    four: Hospitals, second: str
) -> None:
    """With three members of its own the server would open the sum of one site: its bare vector."""
    home = four.sites[FIRST].home
    forged = {name: Ed25519PrivateKey.generate() for name in NAMES[1:]}
    false = {FIRST: four.keys[FIRST]} | {name: keys.public_hex(k) for name, k in forged.items()}
    first = Site.of(home, scenario(false))
    cards = {name: Member.new(name).card(RUN, key) for name, key in forged.items()}
    first.ask(Step.JOIN, four.group({FIRST: first.card()} | cards).encode())
    # Now only the true list is approved, and its run has the same number.
    site = Site.of(home, four.plan, RUN, second)
    for ask in (
        lambda: site.masking.known(site.instruction(1)),
        lambda: site.masking.masked(site.instruction(1), site.open(1, four.values()[FIRST])),
        site.card,
    ):
        with pytest.raises(Decline, match=r"^(unapproved|keys-changed): "):
            ask()
    with pytest.raises(Decline, match=r"^(unapproved|keys-changed): "):
        site.vector(1, four.values()[FIRST])
    assert site.rows == [], "nothing is spent, and no list is written down"
    assert site.masking.group == four.keys


def test_a_group_with_the_thresholds_of_another_plan_masks_nothing(four: Hospitals) -> None:
    """Sums of three would be opened where the approved plan has the noise of four in each."""
    four.join(four.group())
    strict = with_values(four.plan, "federation", quorum=4)
    site = Site.of(four.sites[FIRST].home, strict)
    with pytest.raises(Decline, match=r"^thresholds: must be 4 members, 4 least and 3 honest"):
        site.vector(1, four.values()[FIRST])
    assert site.rows == []


def test_a_run_whose_keys_are_gone_is_not_joined_with_others(four: Hospitals) -> None:
    """A server may say at any time that the model is released, by which a site forgets its keys."""
    four.join(four.group())
    site = four.sites[FIRST]
    site.vector(1, four.values()[FIRST])
    rows = site.rows
    site.masking.forget()
    assert not site.masking.sums.path.exists()
    with pytest.raises(Decline, match=r"^keys-changed: the run was joined, and its keys were"):
        site.card()
    # Nor where the file of another bundle has a key for the same run.
    again = Site.of(site.home, four.plan, RUN, "c" * 64)
    with pytest.raises(Decline, match=r"^keys-changed: "):
        again.card()
    with pytest.raises(Decline, match=r"^keys-changed: "):
        again.vector(2, four.values()[FIRST])
    assert site.rows == rows


def test_another_group_is_not_joined_by_a_key_that_was_made_before(four: Hospitals) -> None:
    """A key of a second bundle, made before the first one's group was joined."""
    second = Site.of(four.sites[FIRST].home, four.plan, RUN, "c" * 64)
    card = second.card()
    four.join(four.group())
    cards = {name: site.card() for name, site in four.sites.items()} | {FIRST: card}
    with pytest.raises(Decline, match=r"^keys-changed: another group of this run was joined"):
        second.ask(Step.JOIN, four.group(cards).encode())


@pytest.mark.long
def test_the_keys_of_a_bundle_go_with_its_approval(tmp_path: Path) -> None:
    four = Hospitals(tmp_path, coordinates=VALUES)
    home, given = four.sites[FIRST].home, tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    read = bundles.read(given)
    approval.approve(home, approval.review(home, read, {}), "me")
    further = home / "coordinators" / "second"
    further.mkdir(parents=True)
    own = Site.of(home, four.plan, RUN, read.sha256)
    own.card()
    kept = further / FOLDER / read.sha256 / "x.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert own.masking.sums.path.exists()
    approval.revoke(home, read.sha256)
    assert not own.masking.sums.path.exists() and not kept.exists()


@pytest.mark.long
@pytest.mark.parametrize("asks", [True, False])
def test_numbers_of_code_that_did_not_ask_for_the_round_are_not_masked(
    four: Hospitals, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its round would be used up, and a vector lie there that no row of the ledger stands for."""
    four.join(four.group())
    site = four.sites[FIRST]

    class Worker:
        def get(self, *of: object) -> Worker:
            return self

        def ask(self, blob: bytes, limits: object, reserve: Callable[[], object]) -> bytes:
            if asks:
                assert reserve() is None
            return Reply(site.open(1, four.values()[FIRST]), None).encode()

        def stale(self, policy: object) -> bool:
            return False

    monkeypatch.setattr(desk.Desk, "_guardian", lambda self, approved: site.guard)
    monkeypatch.setattr(desk, "_step", lambda message: b"")
    monkeypatch.setattr(desk, "_instruction", lambda message, approved: site.instruction(1))
    monkeypatch.setattr(desk.flower, "to_bytes", lambda message: b"")
    here: Any = SimpleNamespace(
        metadata=SimpleNamespace(run_id=1, message_type=MessageType.TRAIN),
        bundle=SimpleNamespace(sha256=BUNDLE),
        config={"run.id": RUN.hex()},
        policy=site.guard.policy(),
    )
    workers: Any = Worker()
    at = desk.Desk(site.home, workers, lambda *a, **k: None)
    if asks:
        assert isinstance(at._worked(here, here, 1)[0], Reply)
        assert site.rows == ["genesis", "reserve", "settle", "release"]
        assert site.masking.known(site.instruction(1))
        return
    with pytest.raises(egress.NotAllowed, match=r"^sum: round 1 was answered and never asked for"):
        at._worked(here, here, 1)
    assert site.rows == [] and not site.masking.known(site.instruction(1))
