"""What one site's ledger alone cannot show, the server's memory does: each attack by its name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.identity import keys
from fedlite.messages import LedgerHead
from fedlite.privacy.ledger import Ledger, forget, rows
from server.chain import ChainFile
from server.witness import FILE, Disagreement, Witness

RUN = "00112233445566ff"
LINE_DOMAIN = b"fedlite-witness-line-v2\n"
POLICY = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "person": 0.0,
    "per_run": 0.0,
    "units": ["record"],
    "metrics": [],
    "servers": [],
}
PLAN = {
    "run": RUN,
    "unit": "record",
    "noise_multiplier": 8.0,
    "sampling_rate": 1.0,
    "steps": 9,
    "asked": 9,
    "clip": 0.1,
    "expected_batch": 10,
    "max_batch": 0,
    "max_records": 0,
    "delta": 1e-5,
    "epsilon_asked": 3.0,
    "bound": "pld",
    "charged": 2.0,
    "code": "ab" * 32,
}


class Chain:
    """A site's ledger in a folder of its own."""

    def __init__(self, folder: Path, site: str = "site-1", commitment: str = "cd") -> None:
        self.path = folder / "ledgers" / "digits.jsonl"
        self.key = keys.load_or_generate(folder / "keys" / "ledger.pem")
        self.site = site
        if not self.path.exists():
            with Ledger.open(self.path, self.key) as ledger:
                ledger.create(
                    {
                        "version": 1,
                        "site": site,
                        "dataset": "digits",
                        "key": keys.public_hex(self.key),
                        "owner": "",
                        "commitment": commitment * 32,
                        "code": "ab" * 32,
                        "order": 8.0,
                        "policy": POLICY,
                        "plan": PLAN,
                    }
                )

    def grow(self, why: str = "ceiling") -> LedgerHead:
        with Ledger.open(self.path, self.key) as ledger:
            ledger.append(("refuse", {"run": RUN, "round": 1, "why": why}))
        return self.head()

    def head(self, *, named: bool = True) -> LedgerHead:
        forget(self.path)
        with Ledger.open(self.path, self.key) as ledger:
            head, key = ledger.head, keys.public_hex(self.key)
        names = (bytes.fromhex(head.ledger), bytes.fromhex(key)) if named else (b"", b"")
        return LedgerHead(head.seq, bytes.fromhex(head.hash), bytes.fromhex(head.signature), *names)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "home")


@pytest.fixture
def server(tmp_path: Path) -> Callable[[], Witness]:
    """Return a maker of the same server, started again."""
    return lambda: Witness(tmp_path / "run", tmp_path / "witness.pem")


def see(witness: Witness, head: LedgerHead | None, site: str = "site-1", number: int = 1) -> None:
    witness.see(site, head, run=RUN, number=number, payload="ee" * 32)
    witness.flush()


def refused(witness: Witness, head: LedgerHead | None, site: str = "site-1") -> str:
    with pytest.raises(Disagreement) as caught:
        see(witness, head, site)
    witness.flush()
    return caught.value.why


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE).read_bytes().splitlines()]


def test_every_head_is_written_signed_and_answered(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    assert witness.receipt("site-1") is None
    for number in (1, 2):
        see(witness, chain.grow(), number=number)
    first, second = lines(tmp_path / "run")
    assert (first["seq"], second["seq"]) == (1, 2)
    assert second["hash"] == chain.head().hash.hex()
    for row in (first, second):
        proof = row.pop("proof")
        assert keys.verify(witness.public, proof, LINE_DOMAIN + rows.canonical(row))
    receipt = witness.receipt("site-1")
    assert receipt is not None and receipt.seq == 2
    said = rows.witness_message(chain.head().ledger.hex(), 2, second["hash"])
    assert keys.verify(receipt.witness.hex(), receipt.signature.hex(), said)
    # A short head is enough once the ledger is known, and the same head again is no fork.
    see(witness, chain.head(named=False))


def test_a_restored_old_copy_is_refused_even_by_a_restarted_server(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    chain.grow()
    shutil.copytree(tmp_path / "home", tmp_path / "backup")
    see(witness, chain.grow())
    see(witness, chain.grow())
    old = Chain(tmp_path / "backup")
    assert refused(server(), old.head()) == "regress"
    assert lines(tmp_path / "run")[-1]["why"] == "regress"


def test_a_truncated_ledger_is_refused(chain: Chain, server: Callable[[], Witness]) -> None:
    witness = server()
    chain.grow()
    see(witness, chain.grow())
    data = chain.path.read_bytes()
    chain.path.write_bytes(data[: data[:-1].rfind(b"\n") + 1])
    forget(chain.path)
    assert refused(witness, chain.head()) == "regress"


def test_a_cloned_machine_is_refused(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    see(witness, chain.grow())
    shutil.copytree(tmp_path / "home", tmp_path / "clone")
    clone = Chain(tmp_path / "clone")
    see(witness, chain.grow("ceiling"))
    assert refused(witness, clone.grow("person")) == "fork"


def test_a_ledger_that_was_deleted_and_begun_anew_is_refused(
    chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    see(witness, chain.grow())
    chain.path.unlink()
    forget(chain.path)
    again = Chain(chain.path.parent.parent, commitment="ce")
    for _ in range(3):
        again.grow()
    assert refused(witness, again.head()) == "new-ledger"
    with pytest.raises(Disagreement, match="new-ledger"):
        witness.greet("site-1", None, ())


def test_a_site_cannot_show_another_sites_ledger(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    other = Chain(tmp_path / "other", "site-2")
    see(witness, chain.grow())
    see(witness, other.grow(), "site-2")
    other.grow()
    assert refused(witness, other.head(), "site-1") == "new-ledger"
    # Without the names it is read as a head of the ledger that the server knows.
    assert refused(witness, other.head(named=False), "site-1") == "forged"


def test_a_head_that_nobody_signed_is_refused(chain: Chain, server: Callable[[], Witness]) -> None:
    head = chain.grow()
    forged = LedgerHead(head.seq + 5, head.hash, head.signature[::-1], head.ledger, head.key)
    assert refused(server(), forged) == "forged"
    assert refused(server(), None) == "missing"
    short = LedgerHead(head.seq, head.hash, head.signature)
    assert refused(server(), short) == "unknown"


def test_a_rotated_key_is_taken_only_with_its_proof(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    see(witness, chain.grow())
    new = keys.generate(tmp_path / "new.pem")
    with Ledger.open(chain.path, chain.key) as ledger:
        rotation = ledger.rotate(new).line.decode().rstrip()
    chain.key = new
    head = chain.grow()
    with pytest.raises(Disagreement, match="forged"):
        witness.greet("site-1", head, ())
    with pytest.raises(Disagreement, match="forged"):
        witness.greet("site-1", head, (rotation.replace("a", "b"), "{}", "é"))
    witness.greet("site-1", head, (rotation,))
    see(witness, chain.grow())
    witness.flush()
    assert server().receipt("site-1") is not None


def test_a_first_ledger_is_taken_only_from_the_key_that_was_enrolled(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    other = keys.public_hex(keys.generate(tmp_path / "other.pem"))
    witness = server()
    witness.expect("site-1", other)
    with pytest.raises(Disagreement, match="forged"):
        witness.greet("site-1", chain.grow(), ())
    assert refused(witness, chain.head()) == "forged"
    witness = server()
    witness.expect("site-1", keys.public_hex(chain.key))
    witness.greet("site-1", chain.head(), ())
    see(witness, chain.grow())


def test_an_enrolled_key_may_have_been_rotated_before_the_first_run(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    enrolled, new = keys.public_hex(chain.key), keys.generate(tmp_path / "new.pem")
    chain.grow()
    with Ledger.open(chain.path, chain.key) as ledger:
        rotation = ledger.rotate(new).line.decode().rstrip()
    chain.key = new
    witness = server()
    witness.expect("site-1", enrolled)
    with pytest.raises(Disagreement, match="forged"):
        witness.greet("site-1", chain.grow(), ())
    witness.greet("site-1", chain.head(), (rotation,))
    see(witness, chain.grow())


def test_the_second_file_is_remembered_from_run_to_run(tmp_path: Path, chain: Chain) -> None:
    sink = tmp_path / "all-runs.jsonl"
    first = Witness(tmp_path / "a", tmp_path / "w.pem", sink)
    see(first, chain.grow())
    assert sink.read_bytes() == (tmp_path / "a" / FILE).read_bytes()
    second = Witness(tmp_path / "b", tmp_path / "w.pem", sink)
    receipt = second.receipt("site-1")
    assert receipt is not None and receipt.seq == 1
    chain.path.unlink()
    forget(chain.path)
    assert refused(second, Chain(chain.path.parent.parent, commitment="ce").grow()) == "new-ledger"
    assert len(lines(tmp_path / "b")) == 1


def test_a_server_killed_between_its_two_files_tells_all_in_the_runs_own(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the run's file would lack a line for what the site has a signature of.
    sink, add = tmp_path / "all-runs.jsonl", ChainFile.append

    def killed(file: ChainFile, *args: Any) -> None:
        if file.path != sink:
            raise KeyboardInterrupt
        add(file, *args)

    first = Witness(tmp_path / "run", tmp_path / "w.pem", sink)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ChainFile, "append", killed)
        see(first, chain.grow())
    again = Witness(tmp_path / "run", tmp_path / "w.pem", sink)
    receipt = again.receipt("site-1")
    assert receipt is not None and receipt.seq == 1 and not (tmp_path / "run" / FILE).exists()
    # An update that only the other file knows has not come into this run's record.
    assert again.releases(RUN, "site-1") == 0
    for _ in range(2):
        again.greet("site-1", chain.head(), ())
        again.flush()
    (line,) = lines(tmp_path / "run")
    assert (line["seq"], line["payload"]) == (1, "")
    see(again, chain.head())
    assert again.releases(RUN, "site-1") == 1


def test_what_was_seen_cannot_be_edited(
    tmp_path: Path, chain: Chain, server: Callable[[], Witness]
) -> None:
    witness = server()
    see(witness, chain.grow())
    path = tmp_path / "run" / FILE
    whole = path.read_bytes()
    for edit in (whole.replace(b'"seq":1', b'"seq":0'), b"{}\n" + whole, whole[:40] + b"\n"):
        path.write_bytes(edit)
        with pytest.raises(ValueError, match=r"witness\.jsonl: line 1 is damaged"):
            server()
    # A line that was being written when the machine stopped was never relied upon.
    path.write_bytes(whole + whole[:50])
    receipt = server().receipt("site-1")
    assert receipt is not None and receipt.seq == 1
    assert path.read_bytes() == whole


# The chain, and the line that closes a run.

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
