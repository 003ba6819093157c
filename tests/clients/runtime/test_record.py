"""What a site tells a data protection officer.

Covers clients/runtime/runbook.py, clients/runtime/record_page.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from clients.runtime import approval, record as records, record_page, runbook, seats, setup
from clients.runtime.gate import ApprovedRun
from clients.runtime.status import Answered
from fedlite.commands.main import app
from fedlite.deployment import bundle as bundles
from fedlite.guard import guardian, policy
from fedlite.guard.policy import DataSet
from fedlite.messages import COUNTS, Instruction, LedgerHead, Reply, site_id
from fedlite.privacy.budget import Account
from fedlite.privacy.counting import run_of
from fedlite.privacy.ledger import read
from fedlite.scenario import from_dict
from fedlite.secure.messages import Note, Step
from tests.clients.runtime.hospitals import Hospitals
from tests.clients.runtime.test_approval import made
from tests.clients.runtime.test_setup import invitation, invite

RUNS = ("ab" * 8, "cd" * 8)
SETTINGS: dict[str, Any] = {
    "federation": {"name": "heart", "rounds": 3},
    "training": {"steps": 1},
    "privacy": {"unit": "record", "epsilon": 1.0, "expected_batch": 20, "sampling_rate": 1.0},
}


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", *map(str, words)])
    return result.exit_code, result.output


def spend(home: Path, run: str, frames: list[bytes]) -> None:
    guard = guardian.deployed(from_dict(SETTINGS), home, run)
    for number, frame in enumerate(frames, 1):
        asked = Instruction(bytes.fromhex(run), number, site_id("site-01"), 0, bytes(8), ())
        guard.reserve(asked)
        guard.release(asked, frame)


STEP = Note(Step.SIGN, 2, bytes(8), bytes(64)).encode()


def head(*, named: bool = False) -> bytes:
    """Return what goes before a frame, as a site packs it."""
    names = {"ledger": bytes(32), "key": bytes(32)} if named else {}
    return Reply(b"", LedgerHead(3, bytes(32), bytes(64), **names)).encode()


def answered(run: str, round: int, up: int, outcome: str = "sent") -> Answered:
    return Answered(run, "x", str(round), 0.1, up, 5000, outcome)


def approved(home: Path, run: str, **settings: Any) -> ApprovedRun:
    held = policy.load(home / "site.toml")
    bundle: Any = SimpleNamespace(sha256=held.bundles[0].sha256)
    config = {"run.id": run, "run.directory": "/x", **settings}
    return ApprovedRun(bundle, config, held)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site of two coordinators that answered two private runs and one without noise."""
    home = tmp_path / "home"
    setup.init(home, "site-01", data=DataSet("digits", "digits"))
    for one in (invitation("study"), invitation("others", witness="cd" * 32)):
        setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    approval.approve(home, approval.review(home, bundles.read(made()), {}), "dr. who")
    first, second = seats.every(home)
    spend(home, RUNS[0], [b"12345", b"1234567"])
    spend(home, RUNS[1], [b"123"])
    terms = {"federation.name": "heart", "data.name": "digits", "privacy.unit": "record"}
    # As the first site sent them: the ledger's names went with the first answer. A step of a sum is
    # an answer, too; the other run's notes are of an older release.
    for number, blob in ((1, head(named=True) + b"12345"), (2, head() + b"1234567"), (2, STEP)):
        note, run_ = answered(RUNS[0], number, 999), approved(home, RUNS[0], **terms)
        runbook.note(home, first, run_, note, update=True, blob=blob)
    run_ = approved(home, RUNS[1], **terms)
    runbook.note(home, second, run_, answered(RUNS[1], 1, 99), update=True)
    plain = {"federation.name": "plain", "data.name": "digits", "privacy.unit": "none"}
    for number, (up, outcome) in enumerate([(700, "sent"), (12, "failed"), (900, "sent")], 1):
        note, run_ = answered("ef" * 8, number, up, outcome), approved(home, "ef" * 8, **plain)
        blob = bytes(650) if number == 1 else b""
        runbook.note(home, second, run_, note, update=True, blob=blob)
    # Whatever the coordinator calls it: what trains is an update, and what does not is none.
    hello = Answered("ef" * 8, "x", "1", 0.1, 300, 1, "sent")
    runbook.note(home, second, approved(home, "ef" * 8, **plain), hello, update=False)
    return home


def test_every_run_is_told_with_its_coordinator_its_loss_and_what_left(home: Path) -> None:
    code, output = run("record", home, "--json")
    assert code == 0, output
    found = json.loads(output)
    assert not (home / "record.html").exists()
    by_run = {one["run"]: one for one in found["runs"]}
    assert [by_run[number]["coordinator"] for number in (*RUNS, "ef" * 8)] == [
        "study", "others", "others",
    ]  # fmt: skip
    account = Account.of(read(home / "ledgers/digits.jsonl"))
    charged = [plan.charged for plan in account.plans]
    assert [by_run[n]["charged_after"] for n in RUNS] == charged
    assert [by_run[n]["charged_before"] for n in RUNS] == [0.0, charged[0]]
    assert found["datasets"][0]["charged"] == charged[-1] <= found["datasets"][0]["ceiling"] == 3.0
    sent = {n: [(one["round"], one["bytes"]) for one in by_run[n]["releases"]] for n in by_run}
    assert sent == {
        RUNS[0]: [("1", 5 + 168), ("2", 7 + 104)],
        # No note tells how long the head was: the longer one counts.
        RUNS[1]: [("1", 3 + 168)],
        # Without a ledger: what left, and not what was declined; an old note knows the message.
        "ef" * 8: [("1", 650), ("3", 900)],
    }
    names = ("all", "frames", "heads", "sum_steps", "at_most")
    parts = {n: tuple(by_run[n]["bytes"][name] for name in names) for n in by_run}
    assert parts == {
        RUNS[0]: (12 + 272 + 80, 12, 272, 80, 0),
        RUNS[1]: (171, 3, 168, 0, 1),
        "ef" * 8: (1550, 1550, 0, 0, 1),
    }
    assert [by_run[n]["signed"] for n in (*RUNS, "ef" * 8)] == [True, True, False]
    held = policy.load(home / "site.toml").bundles[0]
    assert {(one["bundle"], one["approved"], one["by"]) for one in found["runs"]} == {
        (held.sha256, held.approved, "dr. who")
    }
    assert "run.directory" not in by_run["ef" * 8]["settings"]
    assert [line["action"] for line in found["acts"]] == ["init", "join", "join", "approve"]


def test_the_page_says_it_in_words_and_is_made_anew(home: Path, tmp_path: Path) -> None:
    for out in (home / "record.html", tmp_path / "dpo.html"):
        words = () if out.parent == home else ("--out", out)
        for _ in range(2):
            code, output = run("record", home, *words)
            assert code == 0 and f"{out}: 3 runs of 'site-01'" in output
        assert out.stat().st_mode & 0o077 == 0
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", out.read_text()))
        for part in (
            "site-01 answered 3 runs.", "1 run sent updates without the protection of noise",
            "asked by study", "asked by others", "purpose plain", "no noise was asked for",
            "by dr. who", "digits: epsilon",
        ):  # fmt: skip
            assert part in text, part
        assert re.search(r"\d{4}-\d\d-\d\d 2 284 ", text) and " 2 1,550 " in text
        assert "at most 2,085 bytes that left" in text or "bytes that left at most 2,085" in text
        assert "bytes in all 364: frames 12, ledger heads 272, steps of sums 80" in text
        assert "http" not in out.read_text().replace("http-equiv", "") and "<script" not in text
    other = tmp_path / "thesis.html"
    other.write_text("<title>Thesis</title>")
    code, output = run("record", home, "--out", other)
    assert code == 2 and "never overwritten" in output
    assert other.read_text() == "<title>Thesis</title>"


def test_the_head_of_counts_is_known_by_their_note(home: Path) -> None:
    """They have a plan of their own, and the notes of the run that they end."""
    counted = run_of(bytes.fromhex(RUNS[0]))
    spend(home, counted, [b"123456"])
    note = replace(answered(RUNS[0], 4, 999), round=COUNTS)
    blob = head() + b"123456"
    runbook.note(home, home, approved(home, RUNS[0]), note, update=True, blob=blob)
    (found,) = (one for one in records.record(home)["runs"] if one["run"] == counted)
    assert found["scenario"] == "heart, its counts"
    told = {"all": 6 + 104, "frames": 6, "heads": 104, "sum_steps": 0, "at_most": 0}
    assert found["bytes"] == told


def test_a_run_that_was_declined_was_not_answered(home: Path) -> None:
    terms = approved(home, "12" * 8, **{"federation.name": "late", "privacy.unit": "record"})
    runbook.note(home, home, terms, answered("12" * 8, 1, 9, "budget"), update=True)
    page = record_page.build(records.record(home))
    assert "site-01 answered 3 runs, and sent nothing in 1 more." in page


def test_a_ledger_that_does_not_verify_is_named_and_hides_nothing_else(home: Path) -> None:
    ledger = home / "ledgers/digits.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"bytes":5', b'"bytes":4', 1))
    found = records.record(home)
    assert "hash" in found["datasets"][0]["error"] and len(found["runs"]) == 3
    page = record_page.build(found)
    assert "not known" in page and "row " in page


def test_names_of_others_are_text(home: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J"
    run_ = approved(home, "99" * 8, **{"federation.name": hostile, "privacy.unit": "none"})
    runbook.note(home, home, run_, answered("99" * 8, 1, 10), update=True)
    page = record_page.build(records.record(home))
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page


@pytest.mark.long
@pytest.mark.parametrize("torn", [b'{"time', b"\xff\xfe", b"[1]\n", b"null\n"])
def test_a_torn_note_costs_only_itself(home: Path, torn: bytes) -> None:
    path = home / "runs" / f"{'ef' * 8}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for content in (b"".join(lines) + torn, torn):
        path.write_bytes(content)
        (one,) = (run for run in records.record(home)["runs"] if run["run"] == "ef" * 8)
        assert len(one["releases"]) == (2 if content != torn else 0)
        record_page.build(records.record(home))


def test_an_unfinished_first_line_is_written_again(home: Path) -> None:
    path = home / "runs" / f"{'ef' * 8}.jsonl"
    path.write_bytes(b"")
    terms = approved(home, "ef" * 8, **{"federation.name": "plain"})
    runbook.note(home, home, terms, answered("ef" * 8, 4, 1), update=True)
    (one,) = (run for run in runbook.read(home) if run["run"] == "ef" * 8)
    assert one["scenario"] == "plain" and len(one["messages"]) == 1


def test_a_new_site_has_a_record(tmp_path: Path) -> None:
    setup.init(tmp_path / "new", "site-02")
    assert run("record", tmp_path / "new")[0] == 0
    page = (tmp_path / "new" / "record.html").read_text()
    assert "joined no coordinator" in page and "None yet" in page


@pytest.mark.parametrize("run_id", ["../../keys/x", "", "AB" * 8, "ab" * 9, "/tmp/x", "a\0b"])
def test_a_bundle_that_names_its_run_like_a_path_writes_nowhere(home: Path, run_id: str) -> None:
    """Its own settings may hold a `run.id`, which nobody looked at where a run sends none."""
    before = set(home.parent.rglob("*"))
    note = answered(run_id, 1, 10)
    runbook.note(home, home, approved(home, run_id), note, update=True)
    assert set(home.parent.rglob("*")) == before


@pytest.mark.long
def test_what_rests_on_others_is_told_with_what_is_left_without_them(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    four.join(four.group())
    site = four.sites["hungary"]
    site.vector(1, four.values()["hungary"])
    (row,) = Account.of(read(site.home / "ledgers" / "digits.jsonl")).plans
    found = records.record(site.home)
    (data,) = [one for one in found["datasets"] if one["runs"]]
    assert data["alone"] == row.alone > data["charged"] > 0
    assert (data["collusion"], data["honest"]) == (20.0, 2)
    (one,) = found["runs"]
    assert one["members"] == sorted(four.keys) and one["honest"] == 3
    assert one["alone_after"] == row.alone
    page = record_page.build(found)
    assert f"{row.alone:.2f}"[:-1] in page and "if all others collude with the server" in page
    assert "at least 3 of 4 being honest (cleveland, hungary, switzerland, va-long-beach)" in page
