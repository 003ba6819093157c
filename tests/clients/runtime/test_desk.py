"""What approved code can do to the site that asked it: real worker processes, hostile apps.

Covers fedlite/guard/remote.py, fedlite/guard/worker.py, clients/runtime/quota.py.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from clients.runtime import doctor, setup, status
from clients.runtime.desk import Desk
from clients.runtime.gate import ApprovedRun
from clients.runtime.warm import Workers
from fedlite import flower
from fedlite.deployment import bundle as bundles
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.messages import Code, Hello, Instruction, Reply, site_id
from fedlite.privacy.ledger import forget, read
from fedlite.scenario import from_dict

RUN = "00112233aabbccdd"
HOSTILE = Path(__file__).with_name("hostile.py")
PRIVATE = {"unit": "record", "epsilon": 3.0, "expected_batch": 20, "sampling_rate": 0.1}


class Place:
    """A site's folder, its desk, and what it wrote into its journal."""

    def __init__(self, home: Path, *, private: bool = True, **inference: Any) -> None:
        self.home, self.inference, self.private = home, inference, private
        setup.init(home, "a", data=DataSet("digits", "digits"), epsilon=5.0)
        (home / "other.csv").write_text("secret\n")
        other = home / "state" / ("ff" * 8)
        other.mkdir(exist_ok=True)
        (other / "state.safetensors").write_text("another run's")
        self.notes: list[tuple[str, str]] = []
        told = policy.load(home / setup.POLICY)
        self.desk = Desk(home, Workers(home, home, told), self._note)

    def _note(self, action: str, **facts: str) -> None:
        self.notes.append((action, facts["why"]))

    def ask(
        self, deed: str, number: int = 1, kind: str = "train", **limits: Any
    ) -> tuple[Any, str]:
        """Return the reply to a round's message by an app that does `deed`.

        All deeds are of one bundle: only a worker that was ended is started again.
        """
        text = before = (self.home / setup.POLICY).read_text()
        for key, value in limits.items():
            text = "\n".join(
                f"{key} = {value}" if line.startswith(f"{key} =") else line
                for line in text.splitlines()
            )
        if text != before:
            (self.home / setup.POLICY).write_text(text)
        bundle = bundles.read(_bundle(self.inference, private=self.private))
        run = ApprovedRun(
            bundle,
            {**bundle.settings, "run.id": RUN},
            policy.load(self.home / setup.POLICY),
        )
        flower.identify(1, 2)
        asked = Instruction(bytes.fromhex(RUN), number, site_id("a"), 0, bytes(8), ())
        return self.desk.answer(flower.ask(asked.encode(), 2, kind, deed), run, 2)

    def kinds(self) -> list[str]:
        path = self.home / "ledgers" / "digits.jsonl"
        return [row.kind for row in read(path)] if path.exists() else []


def _bundle(inference: dict[str, Any], *, private: bool) -> bytes:
    tables = {"federation": {"name": "hostile", "rounds": 5}, "data": {"name": "digits"}}
    tables |= {"inference": inference}
    if private:
        tables |= {"privacy": PRIVATE, "training": {"steps": 2}}
    scenario = from_dict(tables)
    app = {"components": bundles.COMPONENTS, "config": scenario.to_dict()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        project = tomli_w.dumps({"tool": {"flwr": {"app": app}}})
        files = {"clients/__init__.py": "", "clients/app.py": HOSTILE.read_text()}
        for name, text in {"pyproject.toml": project, **files}.items():
            # Without the time: it is always the same bundle.
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "home")
    yield made
    made.desk.close()


@pytest.mark.long
def test_an_honest_round_is_written_down_before_it_is_trained_and_before_it_leaves(
    place: Place,
) -> None:
    reply, word = place.ask("honest")
    assert word == "sent" and place.kinds() == ["genesis", "reserve", "settle", "release"]
    said = Reply.decode(flower.unwrap(reply))
    assert said.frame == bytes(28) + b"frame"
    assert said.head is not None and said.head.seq == 3
    assert place.notes == []


@pytest.mark.long
def test_approved_code_reaches_neither_keys_nor_ledgers_nor_other_runs(place: Place) -> None:
    place.ask("honest")
    rows = place.kinds()
    reply, word = place.ask("pry", 2)
    # It trained unasked, so nothing of it left; what it found is read where it was handed over.
    assert flower.code_of(reply) is Code.DATA and word == "data"
    assert place.kinds() == rows
    assert (place.home / "keys" / "ledger.pem").exists()


@pytest.mark.long
def test_what_it_tried_failed_every_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[bytes] = []
    monkeypatch.setattr(
        "fedlite.guard.guardian.Guardian.release",
        lambda self, asked, frame: handed.append(frame),
    )
    place.ask("honest")
    place.ask("pry", 2)
    assert handed[-1] == bytes(28) + b"frame"


@pytest.mark.long
def test_what_it_prints_is_bounded_and_harmless_and_nothing_of_it_stays(place: Place) -> None:
    _, word = place.ask("chatter")
    assert word == "sent" and place.notes == []
    place.desk.close()
    printed = (place.home / "logs" / "worker.log").read_bytes()
    assert b"\\x1b]0;mine\\x07" in printed and b"bytes were left out" in printed
    assert b"\x1b" not in printed and b"\x07" not in printed
    assert len(printed) < 1_300_000
    assert not (place.home / "state" / RUN / "forked").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("deed", "code", "why"),
    [
        ("sleep", Code.FAILED, "took longer than limits.seconds"),
        ("flood", Code.POLICY, "answered too much"),
        ("fill", Code.FAILED, "kept more than limits.state"),
        ("litter", Code.FAILED, "kept more than 1000 files"),
        ("deep", Code.FAILED, "kept more than 1000 files"),
        ("hide", Code.FAILED, "cannot look into"),
        ("unlinked", Code.FAILED, "kept more than limits.state"),
        ("die", Code.FAILED, "died"),
        ("metrics", Code.FAILED, "died"),
        ("twice", Code.FAILED, "asked for what it may not"),
        ("nonsense", Code.FAILED, "asked for what it may not"),
        ("empty", Code.FAILED, "asked for what it may not"),
        ("unasked", Code.DATA, "trained unasked"),
    ],
)
def test_whatever_it_does_the_site_is_there_for_the_next_round(
    place: Place, deed: str, code: Code, why: str
) -> None:
    place.ask("honest", seconds=60, state=50_000_000)
    rows = place.kinds()
    reply, word = place.ask(deed, 2, seconds=5 if deed == "sleep" else 60)
    assert (flower.code_of(reply), word) == (code, code.value)
    ((_, told),) = place.notes
    assert why in told
    # Asking twice has spent one round; nothing else has spent anything, and nothing is lost.
    assert place.kinds() == rows + ["reserve"] * (deed == "twice")
    assert len(list((place.home / "state" / RUN).glob("*"))) < 100
    again, word = place.ask("honest", 3, seconds=60)
    assert word == "sent" and flower.code_of(again) is None


@pytest.mark.long
def test_approved_code_runs_only_while_it_is_asked(place: Place) -> None:
    place.ask("honest")
    place.ask("later", 2)
    folder = place.home / "state" / RUN
    before = sorted(folder.glob("*"))
    time.sleep(1.0)
    assert sorted(folder.glob("*")) == before
    _, word = place.ask("honest", 3)
    assert word == "sent"


@pytest.mark.long
def test_nothing_fills_the_disk_while_the_ledger_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ask("honest")
    rows, full = place.kinds(), [0, 0, 1]
    calls = iter(full)

    def check(folder: Path) -> None:
        if next(calls):
            raise OSError(28, "full")

    monkeypatch.setattr("clients.runtime.desk.check_room", check)
    # Before it is asked, before it trains, before what it made is released.
    _, word = place.ask("honest", 2)
    assert word == "failed" and place.kinds() == [*rows, "reserve"]
    calls = iter([0, 1])
    _, word = place.ask("honest", 3)
    assert word == "failed" and place.kinds() == [*rows, "reserve"]


@pytest.mark.long
def test_what_approved_code_hands_over_is_read_as_bytes_and_as_nothing_else(place: Place) -> None:
    reply, word = place.ask("raw")
    assert word == "sent" and Reply.decode(flower.unwrap(reply)).frame == bytes(28) + b"frame"


@pytest.mark.long
def test_an_error_in_between_leaves_no_answer_for_the_next_message(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ask("honest")

    def broken(guard: object, asked: object) -> None:
        raise RuntimeError("nobody thought of it")

    with monkeypatch.context() as patched:
        patched.setattr("fedlite.guard.guardian.Guardian.reserve", broken)
        assert place.ask("honest", 2)[1] == "failed"
    assert place.ask("honest", 3)[1] == "sent"


@pytest.mark.long
def test_a_hello_tells_one_layout_and_nothing_else(place: Place) -> None:
    """It is asked for without end, and no ledger has a row for it."""
    said, word = place.ask("hello", kind="query")
    assert word == "sent" and Hello.decode(flower.unwrap(said)).layout == "ab" * 8
    assert place.ask("long hello", kind="query")[1] == "policy"
    # Of the same bundle another one.
    place.desk._layouts = dict.fromkeys(place.desk._layouts, "cd" * 8)
    assert place.ask("hello", kind="query")[1] == "policy"
    assert all("one layout" in why for _, why in place.notes) and place.kinds() == []


@pytest.mark.long
def test_records_that_are_replaced_while_a_round_is_begun_are_not_trained_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has read the old ones, and the ledger would commit to the new ones."""
    place.ask("honest")
    rows = place.kinds()
    monkeypatch.setattr(Workers, "stale", lambda self, policy: True)
    assert place.ask("honest", 2)[1] == "data" and place.kinds() == rows


@pytest.mark.long
def test_a_head_that_approved_code_makes_up_is_not_sent(place: Place) -> None:
    place.ask("honest")
    reply, _ = place.ask("head", 2)
    said = Reply.decode(flower.unwrap(reply))
    last = read(place.home / "ledgers" / "digits.jsonl")[-1]
    assert said.head is not None and said.frame == bytes(28) + b"frame"
    assert (said.head.seq, said.head.hash.hex()) == (last.seq, last.hash)


@pytest.mark.long
def test_a_second_folder_has_no_second_budget_for_the_same_records(
    place: Place, tmp_path: Path
) -> None:
    place.ask("honest")
    other = Place(tmp_path / "other")
    try:
        reply, word = other.ask("honest")
        assert flower.code_of(reply) is Code.LEDGER and word == "ledger"
        assert other.kinds() == []
        ((_, told),) = other.notes
        assert f"site join {place.home} INVITATION" in told and "by --part" in told
        (check,) = [c for c in doctor.examine(other.home) if c.name == "budget digits"]
        assert check.state == doctor.FAIL and f"site join {place.home}" in check.mend
    finally:
        other.desk.close()


@pytest.mark.long
@pytest.mark.parametrize("back", [False, True])
def test_a_ledger_that_went_back_while_the_site_was_stopped_is_found(
    tmp_path: Path, back: bool
) -> None:
    place = Place(tmp_path / "home")
    path = place.home / "ledgers" / "digits.jsonl"
    place.ask("honest")
    old = path.read_bytes()
    place.ask("honest", 2)
    place.desk.close()
    path.unlink()
    if back:
        path.write_bytes(old)
    forget(path)  # as a new process has
    place = Place(place.home)
    reply, _ = place.ask("honest", 3)
    assert flower.code_of(reply) is Code.LEDGER
    assert path.exists() is back and (not back or path.read_bytes() == old)
    # Neither status nor doctor is content meanwhile.
    (told,) = status.status(place.home)["budget"]
    assert "row 6 was written on this machine" in told["error"] and "site adopt" in told["error"]
    (check,) = [c for c in doctor.examine(place.home) if c.name == "budget digits"]
    assert check.state == doctor.FAIL and "row 6 was written on this machine" in check.what
    place.desk.close()
