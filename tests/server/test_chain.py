"""The chain of what a server has seen, and the line that closes a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedlite.identity import keys
from fedlite.privacy.ledger import rows
from server.witness import FILE, Witness
from tests.server.heads import LINE_DOMAIN, RUN, Chain, lines, see

ZEROS = "0" * 64


def raw(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def chained(path: Path) -> bool:
    """Tell whether every line holds the SHA-256 of the one before, from the bytes alone."""
    found = raw(path)
    hashes = [ZEROS, *(hashlib.sha256(line).hexdigest() for line in found)]
    return [json.loads(line)["prev"] for line in found] == hashes[:-1]


def test_every_line_holds_the_hash_of_the_line_before(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    for number in (1, 2, 3):
        see(server(), chain.grow(), number=number)
    path = tmp_path / "run" / FILE
    assert len(raw(path)) == 3 and chained(path)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_line_that_was_taken_out_or_moved_is_found_at_the_start(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness], gone: int
) -> None:
    for number in (1, 2, 3):
        see(server(), chain.grow(), number=number)
    path = tmp_path / "run" / FILE
    whole = raw(path)
    path.write_bytes(b"".join(line + b"\n" for line in [*whole[:gone], *whole[gone + 1 :]]))
    if gone < 2:  # that the end is missing, only the closing line can show
        with pytest.raises(ValueError, match="does not follow the line before"):
            server()
    path.write_bytes(b"".join(line + b"\n" for line in reversed(whole)))
    with pytest.raises(ValueError, match="does not follow the line before"):
        server()


def test_two_runs_of_one_server_add_to_one_chain(tmp_path: Path) -> None:
    sink, key = tmp_path / "all.jsonl", tmp_path / "w.pem"
    chains = [Chain(tmp_path / name, name) for name in "ab"]
    both = [Witness(tmp_path / f"run-{name}", key, sink) for name in "ab"]
    for number in (1, 2, 3):
        for witness, one in zip(both, chains, strict=True):
            see(witness, one.grow(), one.site, number)
    assert len(raw(sink)) == 6 and chained(sink)
    assert chained(tmp_path / "run-a" / FILE) and chained(tmp_path / "run-b" / FILE)
    # A line that a killed run left half written is in nobody's way.
    with sink.open("ab") as file:
        file.write(b'{"half')
    see(both[1], chains[1].grow(), "b")
    assert len(raw(sink)) == 7 and chained(sink)
    sink.write_bytes(b"")
    with pytest.raises(ValueError, match=r"all\.jsonl"):
        see(both[0], chains[0].grow(), "a")


def test_a_file_of_an_older_fedlite_goes_on_in_the_chain(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    see(witness, chain.grow())
    path = tmp_path / "run" / FILE
    row = {k: v for k, v in lines(tmp_path / "run")[0].items() if k not in ("prev", "proof")}
    key = keys.load(tmp_path / "witness.pem")
    proof = keys.sign(key, b"fedlite-witness-line-v1\n" + rows.canonical(row))
    old = rows.canonical(row | {"proof": proof})
    path.write_bytes(old + b"\n")
    witness = server()
    receipt = witness.receipt("site-1")
    assert receipt is not None and receipt.seq == 1
    see(witness, chain.grow(), number=2)
    assert json.loads(raw(path)[1])["prev"] == hashlib.sha256(old).hexdigest()
    server()
    # Once the chain has begun, nothing without it may follow.
    path.write_bytes(path.read_bytes() + old + b"\n")
    with pytest.raises(ValueError, match="line 3"):
        server()


def test_a_closing_line_names_files_sites_and_what_was_seen(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness, files = server(), {"summary.json": "ab" * 32}
    see(witness, chain.grow())
    before = hashlib.sha256(raw(tmp_path / "run" / FILE)[-1]).hexdigest()
    witness.close(RUN, files, ["site-2", "site-1"])
    row = lines(tmp_path / "run")[-1]
    head = chain.head()
    assert row["sites"] == {
        "site-1": {"ledger": head.ledger.hex(), "seq": head.seq, "hash": head.hash.hex()},
        "site-2": None,
    }
    assert (row["kind"], row["run"], row["files"]) == ("closed", RUN, files)
    assert row["lines"] == row["prev"] == before and row["witness"] == witness.public
    proof = row.pop("proof")
    assert keys.verify(witness.public, proof, LINE_DOMAIN + rows.canonical(row))
    assert chained(tmp_path / "run" / FILE)
    # Closing again with the same adds nothing, also by a server that was started again.
    for again in (witness, server()):
        again.close(RUN, files, ["site-1", "site-2"])
    assert len(lines(tmp_path / "run")) == 2
    server().close(RUN, {"summary.json": "cd" * 32}, ["site-1", "site-2"])
    assert len(lines(tmp_path / "run")) == 3 and chained(tmp_path / "run" / FILE)


def test_updates_are_counted_once_however_often_they_come(
    chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    head = chain.grow()
    for _ in range(2):
        see(witness, head)
    witness.see("site-1", chain.grow(), run=RUN, number=2, payload="ff" * 32)
    witness.see("site-1", chain.grow(), run="", number=0, payload="")
    witness.flush()
    for one in (witness, server()):
        assert one.releases(RUN, "site-1") == 2
        assert one.releases(RUN, "site-2") == one.releases("00" * 8, "site-1") == 0
