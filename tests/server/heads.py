"""Ledger heads as a site makes them, for the tests of the server's witness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.messages import LedgerHead
from fedlite.privacy.ledger import Ledger, forget
from server.witness import FILE, Witness

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


def see(witness: Witness, head: LedgerHead | None, site: str = "site-1", number: int = 1) -> None:
    witness.see(site, head, run=RUN, number=number, payload="ee" * 32)
    witness.flush()


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE).read_bytes().splitlines()]
