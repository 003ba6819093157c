"""The chain of a ledger's rows, and its verification from the bytes of the file alone.

What the rows mean for a budget is not judged here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from fedlite.identity import keys
from fedlite.privacy.ledger.bodies import raised
from fedlite.privacy.ledger.rows import (
    MAX_LINE,
    NO_HASH,
    Head,
    Row,
    grant_message,
    parse,
    rotate_message,
    row_hash,
    row_message,
    stated,
    witness_message,
)
from fedlite.privacy.ledger.rules import Finding, LedgerError

VERSION = 1
MAX_FINDINGS = 100
_MENDS = {
    "not-a-ledger": "name the ledger's own file",
    "newer-version": "update to read it",
    "grant": "ask the data owner for a grant, or allow less",
}
_BEGIN = b'{"body":'
_MEND = "restore the file from a copy, or tell the auditor"


def _check_version(line: bytes) -> None:
    """Refuse a first line that is no genesis row, or one of a format that is not known here."""
    try:
        value = json.loads(line[:MAX_LINE])
        version = value["body"]["version"] if value["kind"] == "genesis" else None
    except (ValueError, RecursionError, KeyError, TypeError):
        version = None
    if version is None:
        raise LedgerError("not-a-ledger", "the first line must be a genesis row")
    if type(version) in (int, float) and version > VERSION:
        raise LedgerError(
            "newer-version",
            f"made by a newer fedlite (format {version!r}, this one reads {VERSION})",
        )


@dataclass
class Chain:
    """What the rows so far have established; `take` judges one more line.

    offset: bytes of all lines taken. last: the last of them.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    lines: int = 0
    offset: int = 0
    last: bytes = b""
    id: str = ""
    key: str = ""
    owner: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    policy_hash: str = ""
    # What the next row must say; None after a line that could not be read.
    seq: int | None = 0
    prev: str | None = NO_HASH

    def copy(self) -> Chain:
        """Return a chain that can go on without changing this one."""
        twin = copy(self)
        twin.rows, twin.notes = self.rows.copy(), self.notes.copy()
        return twin

    def take(self, line: bytes, *, own: bool = False) -> Row:
        """Judge the next line and add its row; a LedgerError leaves the chain as it was.

        own: it has just been hashed and signed here, so neither is checked again.
        """
        try:
            if not self.rows:
                _check_version(line)
            row = parse(line)
            self._check(row)
            if not own:
                self._check_signature(row)
            self._check_statement(row)
        except LedgerError as error:
            text = f"{error.text}; {_MENDS.get(error.rule, _MEND)}"
            raise LedgerError(error.rule, text, self.lines) from None
        if self.rows and row.time < self.rows[-1].time:
            text = f"time {row.time} is before {self.rows[-1].time} of the row before"
            self.notes.append(Finding("clock", self.lines, text, "note"))
        self._follow(row)
        self.rows.append(row)
        self._pass(line, row.seq, row.hash)
        return row

    def take_all(self, lines: Iterable[bytes]) -> bytes:
        """Take every line, and return what follows the last line end; LedgerError at the first."""
        torn = b""
        for line in lines:
            if line.endswith(b"\n"):
                self.take(line)
            else:
                torn = line
        if not self.rows:
            rule, what = ("not-a-ledger", "has no complete line") if torn else ("empty", "is empty")
            raise LedgerError(rule, f"{what}; {_MENDS['not-a-ledger']}, or restore it from a copy")
        check_torn(torn, self.lines)
        return torn

    @property
    def head(self) -> Head:
        """The last row, for a witness."""
        row = self.rows[-1]
        return Head(self.id, row.seq, row.hash, row.signature)

    def check_key(self, public: str) -> None:
        """Raise LedgerError unless `public` is the key in force."""
        if public != self.key:
            raise LedgerError(
                "wrong-key",
                f"its key in force is {self.key[:16]}..., opened with {public[:16]}...: this is "
                "another site's ledger, or the key was rotated; name the key that belongs to it",
            )

    def rolled_back(self) -> LedgerError:
        """Return the error for a file that no longer holds these rows."""
        return LedgerError(
            "rolled-back",
            f"had {len(self.rows)} rows in this process and has fewer now; put back the newest",
        )

    def skip(self, line: bytes) -> None:
        """Step over a line that was refused, so that the rest can be judged."""
        self._pass(line, *stated(line))

    def _pass(self, line: bytes, seq: int | None, hash: str | None) -> None:
        self.lines += 1
        self.offset += len(line)
        self.last = line
        self.seq = None if seq is None else seq + 1
        self.prev = hash

    def _check(self, row: Row) -> None:
        if (row.kind == "genesis") != (self.lines == 0):
            raise LedgerError(
                "genesis", f"must be the first row and no other, got kind {row.kind!r}"
            )
        if self.seq is not None and row.seq != self.seq:
            raise LedgerError("sequence", f"seq must be {self.seq}, got {row.seq}")
        if self.prev is not None and row.prev != self.prev:
            raise LedgerError("chain", f"prev must be {self.prev[:16]}..., got {row.prev[:16]}...")

    def _check_signature(self, row: Row) -> None:
        hash = row_hash(row.seq, row.prev, row.kind, row.time, row.body)
        if row.hash != hash:
            raise LedgerError("hash", f"must be {hash[:16]}..., got {row.hash[:16]}...")
        key = row.body["key"] if row.kind == "genesis" else self.key
        if not keys.verify(key, row.signature, row_message(row.hash)):
            raise LedgerError("signature", f"must be by the key in force, {key[:16]}...")

    def _check_statement(self, row: Row) -> None:
        if row.kind == "key-rotate":
            self._check_rotation(row)
        elif row.kind == "witness":
            self._check_witness(row.body)
        elif row.kind == "policy":
            self._check_grant(row.body)

    def _check_rotation(self, row: Row) -> None:
        key, proof = row.body["key"], row.body["proof"]
        if key == self.key:
            raise LedgerError("rotation", f"the new key must differ from {key[:16]}...")
        if not keys.verify(key, proof, rotate_message(self.id, row.prev)):
            raise LedgerError("rotation", f"proof must be signed here by the new key {key[:16]}...")

    def _check_witness(self, body: Mapping[str, Any]) -> None:
        seq, hash = body["seq"], body["hash"]
        if self.hash_of(seq) != hash:
            raise LedgerError(
                "witness-head", f"row {seq} of this ledger has not the hash {hash[:16]}..."
            )
        if not keys.verify(body["witness"], body["signature"], witness_message(self.id, seq, hash)):
            raise LedgerError(
                "witness-signature", f"must be by the witness {body['witness'][:16]}..."
            )

    def _check_grant(self, body: Mapping[str, Any]) -> None:
        policy, grant = body["policy"], body["grant"]
        more = raised(self.policy, policy)
        if not more and not grant:
            return
        if not self.owner:
            raise LedgerError(
                "grant",
                f"{', '.join(more) or 'a grant'}: this ledger names no data owner",
            )
        if not keys.verify(self.owner, grant, grant_message(self.id, self.policy_hash, policy)):
            what = f"raising {', '.join(more)}" if more else "a grant"
            raise LedgerError(
                "grant",
                f"{what} must be signed by the data owner {self.owner[:16]}... for this policy "
                "and this row",
            )

    def _follow(self, row: Row) -> None:
        if row.kind == "genesis":
            self.id, self.key, self.owner = row.hash, row.body["key"], row.body["owner"]
        elif row.kind == "key-rotate":
            self.key = row.body["key"]
        if row.kind in ("genesis", "policy"):
            self.policy, self.policy_hash = row.body["policy"], row.hash

    def hash_of(self, seq: int) -> str | None:
        """Return the hash of row `seq`, or None where there is no such row yet."""
        if seq < len(self.rows) and self.rows[seq].seq == seq:
            return self.rows[seq].hash
        return next((row.hash for row in self.rows if row.seq == seq), None)


def check_torn(torn: bytes, row: int) -> None:
    """Raise LedgerError unless `torn` can be what a crash leaves of a line.

    That is the beginning of a row, with zeros where the disk did not get the bytes. A whole row
    was flushed together with its end, so that something else after it is damage.
    """
    if len(torn) > MAX_LINE:
        raise LedgerError("line-too-long", f"must have at most {MAX_LINE} bytes; {_MEND}", row)
    begins = all(found in (wanted, 0) for found, wanted in zip(torn, _BEGIN, strict=False))
    if not begins or not all(byte == 0 or 0x20 <= byte <= 0x7E for byte in torn):
        raise LedgerError("damaged-tail", f"must begin as a row does, in ASCII; {_MEND}", row)
    try:
        _, end = json.JSONDecoder().raw_decode(torn.decode("latin-1"))
    except (ValueError, RecursionError):
        return
    if end != len(torn):
        raise LedgerError(
            "damaged-tail",
            f"a whole row is followed by {torn[end:][:20]!r} instead of a line end; {_MEND}",
            row,
        )


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    rows: those before the first error; what follows proves nothing.
    torn: bytes after the last line end. findings: in the order of the rows, notes included.
    """

    rows: list[Row]
    torn: bytes
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """The findings that are failures."""
        return [finding for finding in self.findings if finding.severity == "error"]


def verify(data: bytes) -> Verified:
    """Judge the bytes of a whole ledger; never raises, whatever they are.

    A single thread takes about 0.2 ms a row, most of it for the signature.
    """
    *lines, torn = data.split(b"\n")
    chain, errors, good = Chain(), list[Finding](), None
    for text in lines:
        line = text + b"\n"
        try:
            chain.take(line)
        except LedgerError as error:
            good = len(chain.rows) if good is None else good
            errors.append(Finding(error.rule, error.row, error.text))
            if not chain.rows:
                break
            if len(errors) == MAX_FINDINGS:
                errors.append(Finding("too-many", chain.lines, "the rest was not judged"))
                break
            chain.skip(line)
    if not errors or chain.rows:
        errors += _tail(torn, chain.lines, bool(data))
    findings = sorted(errors + chain.notes, key=lambda finding: finding.row or 0)
    return Verified(chain.rows[:good], torn, findings)


def _tail(torn: bytes, lines: int, some: bool) -> list[Finding]:
    if not lines:
        rule = "not-a-ledger" if some else "empty"
        text = "the first line must be a genesis row" if some else "there is nothing in it"
        return [Finding(rule, None, f"{text}; {_MENDS['not-a-ledger']}")]
    if not torn:
        return []
    try:
        check_torn(torn, lines)
    except LedgerError as error:
        return [Finding(error.rule, error.row, error.text)]
    return [Finding("torn-line", lines, f"{len(torn)} bytes without a line end", "note")]
