"""What a coordinator's own folder tells a run: which node is which approved site."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FEDLITE_COORDINATOR"


@dataclass(frozen=True)
class Enrolled:
    """An approved site: its name, and the public key (hex) that signs its ledgers."""

    name: str
    ledger_key: str


@dataclass(frozen=True)
class Deployment:
    """The folder of the coordinator in whose SuperLink this process runs."""

    root: Path

    @property
    def witness_key(self) -> Path:
        """The key with which all its runs sign the heads that they see."""
        return self.root / "witness.pem"

    def witness_lines(self, dataset: str) -> Path:
        """What they have seen, over all runs, of the ledgers that sites keep for a data set."""
        return self.root / "witness" / f"{dataset}.jsonl"

    def site(self, node: int) -> Enrolled | None:
        """Return which site a node is, as approved at this moment; None when it is none.

        The node's number is bound to its key by Flower, its name by the coordinator's approval.
        Raises ValueError when the list cannot be read: then nobody may enter.
        """
        path = self.root / "sites.json"
        try:
            sites = json.loads(path.read_bytes())
            for name, entry in sites.items():
                if entry["node_id"] == node and not entry["revoked"]:
                    return Enrolled(name, entry["ledger_key"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({type(error).__name__}); restore it from a copy"
            ) from None
        return None


def from_environment() -> Deployment | None:
    """Return the deployment that this process belongs to; None in a simulation."""
    given = os.environ.get(VARIABLE)
    return Deployment(Path(given)) if given else None
