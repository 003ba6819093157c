"""The server as a witness: it remembers, signs and compares every ledger head that it sees.

A site's ledger is a chain that the site itself can cut short, restore from an old copy or write
anew; nobody can see that from the ledger alone. What the server has seen, it does not forget: a
head that went backwards, forked or belongs to another ledger is refused and recorded. Its signature
travels back with the next instruction, so that an honest site finds out first (its machine was
restored from a snapshot, or cloned) and takes no private step.

Every line of `witness.jsonl` is signed by the server and holds the hash of the line before it; the
last one closes the run. An auditor needs nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.messages import LedgerHead, Receipt
from fedlite.privacy.ledger import lines, rows
from fedlite.privacy.ledger.rules import LedgerError
from server.chain import ChainFile

FILE = "witness.jsonl"


class Disagreement(ValueError):
    """A head that does not continue what the server has seen; `why` is the recorded word."""

    def __init__(self, why: str, text: str) -> None:
        """Keep the word for the record, and the sentence for the log."""
        super().__init__(text)
        self.why = why


@dataclass(frozen=True)
class _Seen:
    ledger: str
    key: str
    seq: int
    hash: str
    signature: str


# What a closing line says of a head; the site's signature is in the line that saw it.
_NAMED = ("ledger", "seq", "hash")


class Witness:
    """What this server knows of every site's ledger.

    directory: the run directory; its `witness.jsonl` gets the lines. key: PEM file of the server's
    Ed25519 key, made when it is missing. sink: one more append-only file for the same lines, which
    is also read at the start, so that heads are remembered from run to run.
    """

    def __init__(self, directory: Path, key: Path, sink: Path | None = None) -> None:
        """Read what was seen before; raises ValueError when a line is damaged or not ours."""
        self._key = keys.load_or_generate(key)
        self.public = keys.public_hex(self._key)
        self._run = ChainFile(directory / FILE)
        # The run's own file last: what it says is then in the other one as well.
        self._files = [*([ChainFile(sink)] if sink else []), self._run]
        self._seen: dict[str, _Seen] = {}
        self._expected: dict[str, str] = {}
        self._payloads: dict[tuple[str, str], set[str]] = {}
        # The heads in the run's own file: whatever is countersigned in a run stands there as well,
        # also where the server was killed between the two files.
        self._told: set[_Seen] = set()
        # What was last signed of each site: it stands in a line, and is the site's receipt.
        self._signed: dict[str, tuple[_Seen, str]] = {}
        self._lines: list[dict[str, Any]] = []
        for file in self._files:
            for row in file.load():
                if row.get("kind") == "seen" and row["witness"] == self.public:
                    seen = _Seen(*(row[k] for k in _Seen.__dataclass_fields__))
                    self._keep(row["site"], seen)
                    if file is self._run:
                        self._told.add(seen)
                        self._count(row["run"], row["site"], row["payload"])

    def _keep(self, site: str, seen: _Seen) -> None:
        known = self._seen.get(site)
        if known is None or seen.seq >= known.seq:
            self._seen[site] = seen

    def _count(self, run: str, site: str, payload: str) -> None:
        if payload:
            self._payloads.setdefault((run, site), set()).add(payload)

    def releases(self, run: str, site: str) -> int:
        """Return how many different updates of a site have been seen in a run (its name, hex)."""
        return len(self._payloads.get((run, site), ()))

    def receipt(self, site: str) -> Receipt | None:
        """Return the signature over the last head seen from `site`, or None when there is none."""
        seen = self._seen.get(site)
        if seen is None:
            return None
        return Receipt(bytes.fromhex(self.public), seen.seq, bytes.fromhex(self._sign(site, seen)))

    def _sign(self, site: str, seen: _Seen) -> str:
        before, signature = self._signed.get(site, (None, ""))
        if before != seen:
            message = rows.witness_message(seen.ledger, seen.seq, seen.hash)
            signature = keys.sign(self._key, message)
            self._signed[site] = seen, signature
        return signature

    def expect(self, site: str, key: str) -> None:
        """Accept a ledger that was never seen only from the holder of `key` (public, hex)."""
        self._expected.setdefault(site, key)

    def greet(self, site: str, head: LedgerHead | None, rotations: tuple[str, ...]) -> None:
        """Compare the head in a site's hello with what was seen; raises Disagreement."""
        if head is None:
            if site in self._seen:
                self._refuse(site, None, "new-ledger", run="", number=0, payload="")
            return
        known = self._seen.get(site)
        if known is not None and head.key.hex() != known.key:
            key = _rotated(known.ledger, known.key, rotations)
            if key == head.key.hex():
                self._seen[site] = _Seen(known.ledger, key, known.seq, known.hash, known.signature)
        elif known is None and site in self._expected:
            self._expected[site] = _rotated(head.ledger.hex(), self._expected[site], rotations)
        self.see(site, head, run="", number=0, payload="")

    def see(
        self, site: str, head: LedgerHead | None, *, run: str, number: int, payload: str
    ) -> None:
        """Record the head that came with a reply, or refuse it.

        payload: SHA-256 of the frame that came with it, hex, or empty for a hello.

        Raises Disagreement when there is no head, it is not signed by the ledger's key, or it does
        not continue what was seen.
        """
        known = self._seen.get(site)
        seen, why = self._compare(head, known, self._expected.get(site, ""))
        if seen is None or why:
            self._refuse(site, head, why, run=run, number=number, payload=payload)
        elif seen not in self._told or payload:
            self._append("seen", site, seen, self._sign(site, seen), run, number, payload, "")
            self._seen[site] = seen
            self._told.add(seen)
            self._count(run, site, payload)

    def _compare(
        self, head: LedgerHead | None, known: _Seen | None, expected: str
    ) -> tuple[_Seen | None, str]:
        if head is None:
            return None, "missing"
        if not head.ledger and known is None:
            return None, "unknown"
        seen = _Seen(
            head.ledger.hex() or (known.ledger if known else ""),
            head.key.hex() or (known.key if known else ""),
            head.seq,
            head.hash.hex(),
            head.signature.hex(),
        )
        if not keys.verify(seen.key, seen.signature, rows.row_message(seen.hash)):
            return seen, "forged"
        if known is None:
            return seen, "forged" if expected and seen.key != expected else ""
        if seen.ledger != known.ledger:
            return seen, "new-ledger"
        if seen.key != known.key:
            return seen, "forged"
        if seen.seq < known.seq:
            return seen, "regress"
        if seen.seq == known.seq and seen.hash != known.hash:
            return seen, "fork"
        return seen, ""

    def _refuse(
        self,
        site: str,
        head: LedgerHead | None,
        why: str,
        *,
        run: str,
        number: int,
        payload: str,
    ) -> None:
        empty = _Seen("", "", 0, "", "")
        if head is not None:
            known = self._seen.get(site, empty)
            empty = _Seen(
                head.ledger.hex() or known.ledger,
                head.key.hex() or known.key,
                head.seq,
                head.hash.hex(),
                head.signature.hex(),
            )
        self._append("refused", site, empty, "", run, number, payload, why)
        raise Disagreement(why, f"{site}: its ledger was refused: {why}")

    def _append(
        self,
        kind: str,
        site: str,
        seen: _Seen,
        countersignature: str,
        run: str,
        number: int,
        payload: str,
        why: str,
    ) -> None:
        row = {
            "kind": kind,
            "site": site,
            "run": run,
            "round": number,
            "payload": payload,
            "time": _now(),
            "why": why,
            "witness": self.public,
            "countersignature": countersignature,
        }
        self._lines.append(row | vars(seen))

    def flush(self) -> None:
        """Write the new lines durably; called once a round, before anything depends on them."""
        for file in self._files if self._lines else []:
            file.append(self._lines, self._key)
        self._lines = []

    def close(self, run: str, files: Mapping[str, str], sites: Iterable[str]) -> None:
        """Sign, durably, that the run is over; a run that was closed with the same stays as it is.

        run: its name, hex. files: the SHA-256 of each file of the run (`lines.RUN_FILES`), hex.
        sites: all that took part; of each, the last head that was seen is named.
        """
        self.flush()
        heads = {site: self._head_of(site) for site in sorted(sites)}
        said = {"kind": lines.CLOSED, "run": run, "files": dict(files), "sites": heads}
        if said.items() <= self._run.last.items():
            return
        more = {"lines": self._run.head, "time": _now(), "witness": self.public}
        self._lines.append(said | more)
        self.flush()

    def _head_of(self, site: str) -> dict[str, Any] | None:
        seen = self._seen.get(site)
        if seen is None:
            return None
        return {name: value for name, value in asdict(seen).items() if name in _NAMED}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _rotated(ledger: str, key: str, lines: tuple[str, ...]) -> str:
    """Return the key to which rotations lead from `key`; one that does not follow changes nothing.

    A rotation is a row of the ledger, signed by the old key, that holds the new key's own proof.
    """
    for line in lines:
        try:
            row = rows.parse(line.encode() + b"\n")
        except (LedgerError, UnicodeEncodeError):
            return key
        digest = rows.row_hash(row.seq, row.prev, row.kind, row.time, row.body)
        if row.kind != "key-rotate" or row.hash != digest:
            return key
        handed_over = keys.verify(key, row.signature, rows.row_message(digest))
        proven = keys.verify(
            row.body["key"], row.body["proof"], rows.rotate_message(ledger, row.prev)
        )
        if handed_over and proven:
            key = row.body["key"]
    return key
