"""What approved code can send as counts: what the site's own process has charged, and no more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.runtime import setup
from fedlite import flower
from fedlite.inference import told
from fedlite.messages import Code, Reply
from fedlite.privacy.counting import run_of
from fedlite.privacy.ledger import read
from tests.clients.runtime.test_desk import RUN, Place

AFTER = 6


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "home", calibration=0.3, epsilon=1.0)
    allow(made, '["counts"]')
    yield made
    made.desk.close()


def allow(place: Place, metrics: str) -> None:
    path = place.home / setup.POLICY
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"metrics = {metrics}" if "metrics =" in x else x for x in lines))


@pytest.mark.long
def test_honest_counts_are_charged_before_they_leave_and_once(place: Place) -> None:
    reply, word = place.ask("counts", AFTER, "evaluate")
    assert word == "sent" and place.kinds() == ["genesis", "reserve", "settle", "release"]
    said = Reply.decode(flower.unwrap(reply))
    told.check(said.frame, 3.7)
    assert said.head is not None and said.head.seq == 3
    rows = read(place.home / "ledgers" / "digits.jsonl")
    assert rows[0].body["plan"]["run"] == run_of(bytes.fromhex(RUN))
    # The same counts cost nothing; to look at the records again would, and there is one step.
    again, word = place.ask("counts", AFTER, "evaluate")
    assert flower.code_of(again) is Code.BUDGET and word == "budget"


@pytest.mark.long
@pytest.mark.parametrize(
    "deed",
    ["counts long", "counts exact", "counts negative", "counts update", "counts records", "honest"],
)
def test_what_is_no_form_of_counts_does_not_leave(place: Place, deed: str) -> None:
    reply, word = place.ask(deed, AFTER, "evaluate")
    assert flower.code_of(reply) is Code.POLICY and word == "policy"
    assert place.kinds() == ["genesis", "reserve"]
    assert "counts:" in place.notes[-1][1]


@pytest.mark.long
def test_counts_that_nobody_wrote_down_do_not_leave(place: Place) -> None:
    reply, _ = place.ask("counts unasked", AFTER, "evaluate")
    assert flower.code_of(reply) is Code.DATA
    assert "trained unasked" in place.notes[-1][1]


@pytest.mark.long
@pytest.mark.parametrize("number", [1, 5, 7])
def test_counts_are_told_after_the_last_round_only(place: Place, number: int) -> None:
    reply, _ = place.ask("counts", number, "evaluate")
    assert flower.code_of(reply) is Code.BAD_INSTRUCTION and place.kinds() == []


@pytest.mark.long
def test_a_policy_without_them_lets_none_leave_and_asks_nobody(place: Place) -> None:
    allow(place, "[]")
    reply, _ = place.ask("counts", AFTER, "evaluate")
    assert flower.code_of(reply) is Code.POLICY and place.kinds() == []


@pytest.mark.long
def test_a_ledger_that_began_without_them_needs_the_owner_s_word(place: Place) -> None:
    allow(place, "[]")
    assert place.ask("honest")[1] == "sent"
    allow(place, '["counts"]')
    reply, _ = place.ask("counts", AFTER, "evaluate")
    assert flower.code_of(reply) is Code.POLICY
    assert [kind for kind in place.kinds() if kind == "plan"] == []


@pytest.mark.long
def test_exact_counts_are_told_once_a_run_whatever_approved_code_forgets(tmp_path: Path) -> None:
    made = Place(tmp_path / "home", private=False, calibration=0.3)
    path = made.home / setup.POLICY
    allow(made, '["counts"]')
    lines = path.read_text().splitlines()
    units = ['units = ["none"]' if line.startswith("units =") else line for line in lines]
    path.write_text("\n".join(units))
    try:
        reply, word = made.ask("counts exact", AFTER, "evaluate")
        assert word == "sent"
        frame = Reply.decode(flower.unwrap(reply)).frame
        kept = made.home / "ledgers" / f"{RUN}.counts"
        assert kept.read_text() == hashlib.sha256(frame).hexdigest()
        # Another model's, of which approved code keeps nothing: it may clear its own folder.
        reply, word = made.ask("counts exact others", AFTER, "evaluate")
        assert flower.code_of(reply) is Code.BAD_INSTRUCTION and word == "bad-instruction"
        reply, word = made.ask("counts exact", AFTER, "evaluate")
        assert word == "sent" and Reply.decode(flower.unwrap(reply)).frame == frame
    finally:
        made.desk.close()
