"""The ledgers of a site's other data sets, for the ceiling of a person who is in several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.plans import Plan
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger import read
from fedlite.privacy.ledger.lock import Lock

# Another data set of this site may be opening a plan; that takes seconds.
_WAIT = 60.0


class Siblings:
    """The other ledgers, read only and read anew each time.

    paths: ledgers, or folders in which every `*.jsonl` is one. own: the real path of the open one,
    which may be among them and is left out. What is missing has spent nothing.
    """

    def __init__(self, paths: Sequence[Path], own: str) -> None:
        """Keep the paths."""
        self._paths = tuple(paths)
        self._own = own

    def plans(self, policy: Policy) -> list[Plan]:
        """Return all their plans, or none where the policy has no ceiling for a person.

        Raises LedgerError when one of them cannot be verified: nobody then knows what it spent.
        """
        if not policy.person:
            return []
        found: dict[str, None] = {}
        for path in self._paths:
            for ledger in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
                if os.path.lexists(ledger):
                    found[os.path.realpath(ledger)] = None
        found.pop(self._own, None)
        return [plan for path in found for plan in Account.of(read(path)).plans]

    @contextmanager
    def alone(self, policy: Policy) -> Iterator[None]:
        """Let one data set of the site at a time open a plan where a person has a ceiling.

        Raises LedgerBusy when another has been at it for a minute.
        """
        if not policy.person:
            yield
            return
        lock = Lock(os.path.join(os.path.dirname(self._own), ".person"), _WAIT)
        try:
            yield
        finally:
            lock.release()
