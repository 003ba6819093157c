from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from clients import app as client
from fedlite import flower
from fedlite.guard.guardian import Decline
from fedlite.messages import Code, Hello, Instruction, site_id
from fedlite.parameters import vector_digest
from fedlite.scenario import ScenarioError, from_dict

SECRET = "patient 4711, HIV positive, /home/anna/records.csv"
PLAN = from_dict({"federation": {"sites": 2, "rounds": 2}, "model": {"name": "mlp"}})


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    flower.identify(9, 0)
    client._open.clear()
    yield
    client._open.clear()


def context(path: Path, **changes: Any) -> Context:
    return Context(
        run_id=9,
        node_id=1000,
        node_config={"partition-id": 0, "state-path": str(path)} | changes,
        state=RecordDict(),
        run_config=PLAN.to_run_config(),
    )


def call(kind: str, blob: bytes, where: Context) -> Message:
    message = flower.ask(blob, 1000, kind, "1")
    flower.set_message_id(message, "question")
    return client.app(flower.from_bytes(flower.to_bytes(message)), where)


def test_a_site_says_hello_and_takes_part(tmp_path: Path) -> None:
    where = context(tmp_path)
    hello = Hello.decode(flower.unwrap(call("query", b"?", where)))
    assert hello.site == "site-01"
    (member,) = client._open.values()
    model = vector_digest(member.learner.initial)
    instruction = Instruction(bytes(8), 1, site_id("site-01"), 0, model, ())
    reply = call("train", instruction.encode(), where)
    assert flower.code_of(reply) is None
    assert len(flower.unwrap(reply)) < 1000
    # Nothing but the one blob: no metric, no count, no text.
    assert [list(r.keys()) for r in reply.content.values()] == [["blob"]]
    assert (tmp_path / "site-01.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(SECRET), Code.DATA),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), Code.DATA),
        (ScenarioError(SECRET), Code.CONFIG),
        (RuntimeError(SECRET), Code.FAILED),
        (KeyError(SECRET), Code.FAILED),
        (OSError(28, SECRET, SECRET), Code.FAILED),
        (MemoryError(SECRET), Code.FAILED),
        (Decline(Code.BUDGET, SECRET), Code.BUDGET),
    ],
)
@pytest.mark.parametrize("kind", ["query", "train"])
def test_an_exception_leaves_the_site_as_a_code_and_never_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: Code, kind: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(client, "open_simulated_site", fail)
    blob = Instruction(bytes(8), 1, 1, 0, bytes(8), ()).encode()
    reply = call(kind, blob, context(tmp_path))
    assert flower.code_of(reply) is code
    wire = flower.to_bytes(reply)
    for word in (SECRET, *SECRET.split()[1:]):
        if len(word) > 3:
            assert word.encode() not in wire
    assert reply.error.reason == f"fedlite:{code.value}"


@pytest.mark.parametrize("blob", [b"", b"garbage", b"FLIN" + bytes(31)])
def test_a_malformed_instruction_is_a_code(tmp_path: Path, blob: bytes) -> None:
    reply = call("train", blob, context(tmp_path))
    assert flower.code_of(reply) is Code.BAD_INSTRUCTION


def test_a_wrong_scenario_and_a_missing_partition_are_codes(tmp_path: Path) -> None:
    where = context(tmp_path)
    where.run_config["federation.rounds"] = 0
    assert flower.code_of(call("query", b"?", where)) is Code.CONFIG
    where = context(tmp_path)
    del where.node_config["partition-id"]
    assert flower.code_of(call("query", b"?", where)) is Code.CONFIG


def test_two_runs_of_one_scenario_do_not_share_a_site(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        where = context(tmp_path / folder)
        call("query", b"?", where)
        member = client._site(where)
        assert member.path.parent == tmp_path / folder
    assert client._site(context(tmp_path / "a")).path.parent == tmp_path / "a"


def test_no_more_sites_are_kept_open_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_KEEP", 2)
    monkeypatch.setattr(client, "_KEEP_BYTES", 0)
    for folder in "abcd":
        client._site(context(tmp_path / folder))
    assert len(client._open) == 2


@pytest.mark.parametrize(
    ("error", "changes", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), {}, False),
        (OSError(errno.ENOSPC, "No space left on device"), {"site": "h"}, True),
        (OSError(errno.EIO, "Input/output error"), {}, True),
    ],
)
def test_a_disk_that_fails_is_told_in_one_line_and_where_it_is_shared_by_the_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
    changes: dict[str, str],
    told: bool,
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(client, "_opened", fails)
    reply = call("query", b"", context(tmp_path, **changes))
    assert flower.code_of(reply) is Code.FAILED
    assert [r.levelname for r in caplog.records if r.levelno > 10] == ["ERROR"] * told
    assert all(record.exc_info is None for record in caplog.records)
