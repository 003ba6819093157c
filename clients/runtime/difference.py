"""What an operator has approved before under the same name, and what is different this time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.deployment import bundle as bundles
from fedlite.deployment.bundle import Bundle
from fedlite.guard.policy import ApprovedBundle, SitePolicy
from fedlite.reporting import wording


@dataclass(frozen=True)
class Difference:
    """From `before`, the bundle of the same name that was approved last, to another one.

    settings: key, old and new value as they are written; "none" where there is none. files: name,
    and what became of it. compared: whether the files of `before` are still there.
    """

    before: ApprovedBundle
    settings: tuple[tuple[str, str, str], ...]
    files: tuple[tuple[str, str], ...]
    compared: bool

    def facts(self) -> list[tuple[str, str]]:
        """Return it for people: titles and texts."""
        told = [f"{key}: {old} -> {new}" for key, old, new in self.settings]
        told += [f"{name}: {what}" for name, what in self.files]
        if not self.compared:
            told.append("its files are not here any more, so only settings are compared")
        elif not self.files:
            told.append("the code is the same")
        by = f" by {self.before.by}" if self.before.by else ""
        when = f"{self.before.sha256[:16]}, approved {self.before.approved}{by}"
        return [("before", when), *(("differs" * (not n), text) for n, text in enumerate(told))]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for scripts."""
        return {
            "sha256": self.before.sha256,
            "approved": self.before.approved,
            "by": self.before.by,
            "settings": {key: [old, new] for key, old, new in self.settings},
            "files": dict(self.files),
            "files_compared": self.compared,
        }


def difference(home: Path, policy: SitePolicy, bundle: Bundle) -> Difference | None:
    """Return what is different from the last approval of the name; None when there was none."""
    same = [b for b in policy.bundles if b.name == bundle.name and b.sha256 != bundle.sha256]
    if not same:
        return None
    # Stable: of two in the same second, the one that was appended later.
    before = sorted(same, key=lambda one: one.approved)[-1]
    keys = sorted({*before.settings, *bundle.settings})
    values = [(k, _told(before.settings.get(k)), _told(bundle.settings.get(k))) for k in keys]
    folder = home / "bundles" / before.sha256
    old = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    new = bundles.contents(bundle)
    files = [(name, _became(old.get(name), new.get(name))) for name in sorted({*old, *new})]
    return Difference(
        before,
        tuple(row for row in values if row[1] != row[2]),
        tuple((n, what) for n, what in files if what and n != bundles.CONFIG) if old else (),
        bool(old),
    )


def _told(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _became(old: bytes | None, new: bytes | None) -> str:
    """Return what became of a file; lines are counted, wherever they stand."""
    if old == new:
        return ""
    before, after = (Counter((data or b"").splitlines()) for data in (old, new))
    more, fewer = (after - before).total(), (before - after).total()
    if old is None:
        return f"new, {wording.count(more, 'line')}"
    if new is None:
        return f"gone, {wording.count(fewer, 'line')}"
    if not more and not fewer:
        return "the same lines in another order"
    return f"changed, +{more:,} -{fewer:,} lines"
