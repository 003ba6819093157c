"""What one site's ledger alone cannot show, the server's memory does: each attack by its name."""

from __future__ import annotations

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
from tests.server.heads import LINE_DOMAIN, RUN, Chain, lines, see


def refused(witness: Witness, head: LedgerHead | None, site: str = "site-1") -> str:
    with pytest.raises(Disagreement) as caught:
        see(witness, head, site)
    witness.flush()
    return caught.value.why


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
