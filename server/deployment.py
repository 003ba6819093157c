"""What a coordinator's own folder tells a run: which node is which approved site, and is meant."""

from __future__ import annotations

import json
import os
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlite.deployment import own
from fedlite.deployment.journal import Journal
from fedlite.scenario import Scenario, with_values
from fedlite.storage import write_atomic

VARIABLE = "FEDLITE_COORDINATOR"
# In the run directory: `federation.members`, and whom it meant when the run was submitted.
MEMBERS = "members.json"


@dataclass(frozen=True)
class Enrolled:
    """An approved site: its name, and the public key (hex) that signs its ledgers."""

    name: str
    ledger_key: str


@dataclass(frozen=True)
class Deployment:
    """The folder of the coordinator in whose SuperLink this process runs.

    members: names of the approved sites that the run is for; None: all of them.
    """

    root: Path
    members: frozenset[str] | None = None

    @property
    def witness_key(self) -> Path:
        """The key with which all its runs sign the heads that they see."""
        return self.root / "witness.pem"

    def witness_lines(self, dataset: str) -> Path:
        """What they have seen, over all runs, of the ledgers that sites keep for a data set."""
        return self.root / "witness" / f"{dataset}.jsonl"

    @property
    def journal(self) -> Journal:
        """Who did what."""
        return Journal(self.root / "audit")

    def site(self, node: int) -> Enrolled | None:
        """Return which site a node is, as approved at this moment; None when it is none.

        The node's number is bound to its key by Flower, its name by the coordinator's approval.
        Raises ValueError when the list cannot be read: then nobody may enter.
        """
        return self._sites().get(node)

    def may_ask(self, nodes: Set[int]) -> set[int]:
        """Return which of these nodes may know of the run; raises ValueError as `site` does."""
        return set(nodes) if self.members is None else nodes & self._sites().keys()

    def _sites(self) -> dict[int, Enrolled]:
        """Return the members that are approved at this moment, by node."""
        path = self.root / "sites.json"
        try:
            sites: dict[str, Any] = json.loads(path.read_bytes())
            return {
                entry["node_id"]: Enrolled(name, entry["ledger_key"])
                for name, entry in sites.items()
                if not entry["revoked"] and (self.members is None or name in self.members)
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({type(error).__name__}); restore it from a copy"
            ) from None

    def of_run(self, scenario: Scenario, directory: Path) -> tuple[Scenario, Deployment]:
        """Return the scenario with its members, and the deployment as that run may see it.

        The bundle does not say who they are: every member would learn the others' names from it.
        Raises ValueError when the file that does is damaged: then nobody is asked.
        """
        path = directory / MEMBERS
        try:
            said = json.loads(path.read_bytes())
            names, text = frozenset(map(str, said["sites"])), str(said["members"])
        except FileNotFoundError:
            return scenario, self
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({type(error).__name__}); restore it from a copy"
            ) from None
        told = with_values(scenario, "federation", members=text)
        return told, replace(self, members=names)


def check_own(directory: Path, app: Path) -> None:
    """Check that the bundle's own files are those that were submitted with this run directory.

    app: the folder of the bundle that this process serves. Nothing of it is imported before. Raises
    ValueError, naming the file, when one differs.
    """
    submitted, brought = _own(directory), _own(app)
    names = sorted(submitted | brought)
    if differs := [name for name in names if brought.get(name) != submitted.get(name)]:
        raise ValueError(
            f"{differs[0]}: must be the file that was submitted, {directory / differs[0]}, and the "
            "bundle of this run brings another; submit the scenario again"
        )


def _own(folder: Path) -> dict[str, bytes]:
    files = (folder / own.FOLDER).rglob("*.py")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_members(directory: Path, text: str, names: tuple[str, ...]) -> None:
    """Write into a run directory whom `federation.members` meant."""
    said = {"members": text, "sites": sorted(names)}
    write_atomic(directory / MEMBERS, json.dumps(said, ensure_ascii=False).encode() + b"\n")


def from_environment() -> Deployment | None:
    """Return the deployment that this process belongs to; None in a simulation."""
    given = os.environ.get(VARIABLE)
    return Deployment(Path(given)) if given else None
