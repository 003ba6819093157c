"""What a privacy ledger costs: appending a row and a round with its flushes, verifying, auditing.

Run `python -m simulations.benchmarks.ledger [--quick] [--json FILE]`. Flushes go to the disk that
holds the temporary directory; `TMPDIR` names another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.messages import LedgerHead
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import Budget
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import Ledger
from fedlite.privacy.ledger.chain import verify
from fedlite.privacy.ledger.rows import Head
from server.summary import machine
from server.witness import Witness

ROWS, QUICK_ROWS = 10_000, 1_000
ROUNDS, QUICK_ROUNDS = 200, 20
# A round with the receipt of the round before: witness, reserve; settle and release.
ROWS_A_ROUND = 4
SITE, RUN, EPSILON, DELTA, SIGMA = "site-1", "00000000000000aa", 3.0, 1e-5, 200.0
ZEROS = "00" * 32


class Run:
    """A run directory with one site's ledger and what the server saw of it."""

    def __init__(self, directory: Path, rounds: int) -> None:
        """Open the ledger; `rounds` is how many may follow."""
        self.directory = directory
        self.path = directory / "ledgers" / f"{SITE}.jsonl"
        self.path.parent.mkdir(parents=True)
        self.key = keys.generate(directory / "site.pem")
        self.witness = Witness(directory, directory / "witness.pem")
        self.ledger = Ledger.open(self.path, self.key)
        Budget(self.ledger).begin(
            RUN,
            RecordMechanism(0.1, SIGMA, 1.0, steps=rounds, expected_batch=32),
            SitePolicy(site=SITE, epsilon=EPSILON, delta=DELTA),
            asked_epsilon=EPSILON,
            delta=DELTA,
            dataset="digits",
            commitment=ZEROS,
            code=ZEROS,
        )
        self.receipt: list[tuple[str, dict[str, Any]]] = []

    def play(self, number: int) -> tuple[float, float]:
        """Write one round as a site does; return the seconds before training and before sending."""
        started = time.perf_counter()
        body = {"plan": 0, "run": RUN, "round": number, "steps": 1, "model": "ab" * 8}
        self.ledger.append(*self.receipt, ("reserve", body))
        reserved = time.perf_counter()
        of = self.ledger.head.seq
        payload = hashlib.sha256(secrets.token_bytes(16)).hexdigest()
        self.ledger.append(
            ("settle", {"of": of, "steps": 1, "payload": payload}),
            ("release", {"of": of, "payload": payload, "bytes": 512}),
        )
        released = time.perf_counter()
        self.see(self.ledger.head, number, payload)
        return reserved - started, released - reserved

    def see(self, head: Head, number: int, payload: str) -> None:
        """Let the server see the head, and keep its receipt for the next round."""
        parts = (head.hash, head.signature, head.ledger, keys.public_hex(self.key))
        sent = LedgerHead(head.seq, *map(bytes.fromhex, parts))
        self.witness.see(SITE, sent, run=RUN, number=number, payload=payload)
        receipt = self.witness.receipt(SITE)
        if receipt is not None:
            body = {
                "seq": receipt.seq,
                "hash": head.hash,
                "witness": receipt.witness.hex(),
                "signature": receipt.signature.hex(),
            }
            self.receipt = [("witness", body)]


def measure(rows: int, rounds: int, directory: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark: appending, verifying, auditing."""
    run = Run(directory, rows // ROWS_A_ROUND)
    single = [_seconds(lambda: _append_one(run.ledger))[1]["wall"] for _ in range(rounds)]
    plays = [run.play(number) for number in range(1, rounds + 1)]
    begun = rounds
    while len(run.ledger.rows) + ROWS_A_ROUND <= rows:
        begun += 1
        run.play(begun)
    while len(run.ledger.rows) < rows:
        _append_one(run.ledger)
    run.witness.flush()
    run.ledger.close()
    data = run.path.read_bytes()
    _, verified = _seconds(lambda: verify(data))
    result, audited = _seconds(lambda: audit([directory]))
    if result.findings:  # a run that goes on is not closed
        raise RuntimeError(f"the benchmark's own ledger must be clean: {result.findings[0]}")
    count = {"rows": rows}
    return [
        _row("append one row, flushed", {"times": rounds}, median=1e3 * median(single)),
        _row(
            "a round: reserve, flush; settle and release, flush",
            {"times": rounds, "rows": ROWS_A_ROUND},
            median=1e3 * median(before + after for before, after in plays),
            before_training=1e3 * median(before for before, _ in plays),
            before_sending=1e3 * median(after for _, after in plays),
        ),
        _row("size", count, "bytes", a_row=len(data) / rows),
        _row("verify", count, "s", **verified),
        _row("audit, with witness", count, "s", **audited),
    ]


def _append_one(ledger: Ledger) -> None:
    ledger.append(("dataset-change", {"commitment": secrets.token_hex(32)}))


def _seconds(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    started, cpu = time.perf_counter(), time.process_time()
    value = call()
    seconds = {"wall": time.perf_counter() - started, "processor": time.process_time() - cpu}
    return value, seconds


def _row(
    what: str, parameters: dict[str, Any], unit: str = "ms", **figures: float
) -> dict[str, Any]:
    return {
        "what": what,
        "parameters": parameters,
        "figures": figures,
        "units": dict.fromkeys(figures, unit),
    }


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,000 rows instead of 10,000")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    sizes = (QUICK_ROWS, QUICK_ROUNDS) if arguments.quick else (ROWS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="fedlite-bench-") as name:
        found = measure(*sizes, Path(name))
    print(f"{machine()}\n")
    for row in found:
        said = ", ".join(f"{value} {name}" for name, value in row["parameters"].items())
        figures = "  ".join(
            f"{name.replace('_', ' ')} {value:.4g} {row['units'][name]}"
            for name, value in row["figures"].items()
        )
        print(f"{row['what']} ({said}): {figures}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
