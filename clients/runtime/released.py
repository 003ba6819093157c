"""What the operator of a site sees of a released bundle, and what a yes, a no or a way back does.

What came is held against what the coordinator's key has signed once more before it is put in use,
and tried out: its stored trials must get the same answers here. The card is the text of whoever
made the bundle; whoever shows it escapes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.runtime import seats, trial
from clients.runtime.shelf import CURRENT, FOLDER, STATE, Shelf, check
from fedlite.deployment.journal import Journal
from fedlite.inference import announcement
from fedlite.inference.announcement import Announcement
from fedlite.inference.manifest import MANIFEST
from fedlite.inference.programs import unreleased

DESCRIPTION, CARD = "bundle.json", "README.md"
# Of the card, in bytes; what lies beyond is counted, and not shown.
_SHOWN = 32_768
# Of a promise, in characters; of what differs, rows and the characters of a key and of a value.
_PROMISE, _ROWS, _KEY, _VALUE = 1000, 30, 60, 300
_DESCRIBED = 1 << 20


@dataclass(frozen=True)
class Review:
    """What there is to see of a release that has come.

    facts: titles and texts. card: the model card, cut. since: what is different from the bundle in
    use, by key of `bundle.json`. refused: why it cannot be put in use.
    """

    seat: Path
    announced: Announcement
    signer: str
    facts: tuple[tuple[str, str], ...]
    card: str
    since: tuple[tuple[str, str, str], ...]
    refused: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for scripts."""
        return {
            "sha256": self.announced.sha256,
            "number": self.announced.number,
            "bytes": self.announced.size,
            "signer": self.signer,
            "facts": dict(self.facts),
            "card": self.card,
            "since": {key: [old, new] for key, old, new in self.since},
            "refused": list(self.refused),
        }


def known(home: Path) -> list[dict[str, Any]]:
    """Return a row for each coordinator that has released something, or whose bundle is in use.

    state: "in use", "to decide on", "coming", "not fetched"; "damaged", with `problem`.
    """
    rows = []
    for seat in seats.every(home):
        if not (seat / FOLDER).is_dir():
            continue
        row: dict[str, Any] = {
            "seat": seats.place(home, seat),
            "folder": str(seat / FOLDER / CURRENT),
        }
        try:
            shelf = Shelf(seat)
            made, state = shelf.announced(), shelf.state()
            row |= {"coordinator": seats.joined(seat).name, "in_use": state.current}
            row |= {"previous": state.previous}
            if made is None and not state.current:
                continue
            row |= {"state": "in use"}
            if made is not None:
                row |= {"sha256": made.sha256, "name": made.name, "note": made.note}
                row |= {"number": made.number, "bytes": made.size} | _state(shelf, made)
        except ValueError as error:
            row |= {"state": "damaged", "problem": str(error)}
        rows.append(row)
    return rows


def _state(shelf: Shelf, made: Announcement) -> dict[str, str]:
    used, whole = shelf.state().current == made.sha256, shelf.whole(made)
    if used and not whole:
        why = "the bundle in use lacks files that are announced, or has others"
        return {"state": "damaged", "problem": f"{shelf.path(made.sha256)}: {why}"}
    if whole:
        return {"state": "in use" if used else "to decide on"}
    return {"state": "coming" if shelf.part(made.sha256).is_dir() else "not fetched"}


def review(home: Path, given: str, coordinator: str = "") -> Review:
    """Return what there is to see of the release whose SHA-256 begins so.

    coordinator: whose, where several have announced it. Raises ValueError where none of this site
    begins so, several do, or it has not come.
    """
    found = []
    for seat in [seats.of(home, coordinator)] if coordinator else seats.every(home):
        try:
            made = Shelf(seat).announced()
        except ValueError:
            # Of one coordinator alone; `known` says it.
            if coordinator:
                raise
            continue
        if made is not None and len(given) >= 8 and made.sha256.startswith(given):
            found.append((seat, made))
    if len(found) != 1:
        raise ValueError(
            f"release: must be the first 8 or more digits of the SHA-256 of one that is announced, "
            f"got {given!r:.80}, which fits {len(found)}; list them with `fedlite site released "
            f"{home}`, and name one of several with --coordinator"
        )
    ((seat, made),) = found
    shelf = Shelf(seat)
    folder = shelf.path(made.sha256)
    if not folder.is_dir():
        raise ValueError(
            f"release {made.sha256[:12]}: has not come; set [releases] fetch = true in site.toml, "
            "and let the site run"
        )
    refused = []
    # By their names: what is not announced is not there, and nothing else is opened as a program.
    if why := unreleased(made.files):
        refused.append(f"{folder}: {why}")
    try:
        check(folder, made)
    except (ValueError, OSError) as error:
        refused.append(str(error))
    told, state = _described(folder), shelf.state()
    joined = seats.joined(seat)
    facts = [
        ("coordinator", f"{joined.name} at {joined.address}"),
        ("release", f"number {made.number}, signed by the coordinator's key {shelf.public}"),
        ("note", made.note),
        ("model", made.name),
        ("SHA-256", f"{made.sha256} (of its manifest)"),
        ("size", f"{made.size:,} bytes in {len(made.files)} files"),
        ("made by", _signer(folder)),
        ("promise", str(told.get("promise", "none"))[:_PROMISE]),
        ("in use now", state.current or "none"),
    ]
    past = [row for row in state.history if row.get("sha256") == made.sha256]
    if past and state.current != made.sha256:
        facts.append(("warning", f"was in use here since {past[-1].get('time')}: an older one"))
    if state.current and (before := _signer(shelf.path(state.current))) != _signer(folder):
        facts.append(("warning", f"the bundle in use was made by another key, {before or 'lost'}"))
    since = _since(_described(shelf.path(state.current)), told) if state.current else ()
    return Review(seat, made, _signer(folder), tuple(facts), _card(folder), since, tuple(refused))


def approve(home: Path, seen: Review, by: str) -> Path:
    """Put the bundle in use, and return the folder by which programs find it.

    Raises ValueError where it is not what was announced, or does not answer here as where it was
    made; OSError where the disk is full: the one before is in use then, whole.
    """
    if seen.refused:
        raise ValueError("; ".join(seen.refused))
    shelf, made = Shelf(seen.seat), seen.announced
    if shelf.announced() != made:
        raise ValueError(
            f"release {made.sha256[:12]}: another was announced meanwhile; look at that one"
        )
    folder, journal = shelf.path(made.sha256), Journal(home / "audit")
    # The site that runs may hear of another one meanwhile; it removes nothing before this is over.
    with shelf.alone(wait=True):
        if not folder.is_dir():
            raise ValueError(f"release {made.sha256[:12]}: is not here any more; look again")
        check(folder, made)
        trial.try_out(folder, seen.signer)
        # First: what cannot be written down is not used.
        journal.write("use", bundle=made.sha256, name=made.name, number=made.number, note=made.note)
        shelf.use(made.sha256, number=made.number, by=by, action="use")
    return seen.seat / FOLDER / CURRENT


def refuse(home: Path, seen: Review, why: str) -> None:
    """Write down that it was not put in use; it goes on waiting."""
    Journal(home / "audit").write("refuse", bundle=seen.announced.sha256, why=why)


def back(home: Path, seat: Path, by: str) -> str:
    """Put the bundle before in use again, and return its SHA-256; again, and it is as it was.

    Raises ValueError where there is none, or it is not what was put in use.
    """
    shelf = Shelf(seat)
    if not shelf.folder.is_dir():
        raise ValueError(f"{shelf.folder}: must name a bundle before the one in use, has none")
    with shelf.alone(wait=True):
        return _back(home, shelf, by)


def _back(home: Path, shelf: Shelf, by: str) -> str:
    state = shelf.state()
    folder = shelf.path(state.previous) if state.previous else None
    if folder is None or not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{shelf.folder / STATE}: must name a bundle before the one in use, has none"
        )
    if announcement.digest((folder / MANIFEST).read_bytes()) != state.previous:
        raise ValueError(f"{folder}: is not what was in use; it was changed")
    trial.try_out(folder, _signer(folder))
    Journal(home / "audit").write("back", bundle=state.previous, instead_of=state.current)
    shelf.use(state.previous, number=state.number, by=by, action="back")
    return state.previous


def _described(folder: Path) -> Mapping[str, Any]:
    """Return what `bundle.json` says; nothing where it cannot be read."""
    try:
        with (folder / DESCRIPTION).open("rb") as file:
            told = json.loads(file.read(_DESCRIBED))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _signer(folder: Path) -> str:
    try:
        with (folder / MANIFEST).open("rb") as file:
            return str(json.loads(file.read(_DESCRIBED))["key"])[:64]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _card(folder: Path) -> str:
    try:
        with (folder / CARD).open("rb") as file:
            text = file.read(_SHOWN).decode("utf-8", "backslashreplace")
            more = (folder / CARD).stat().st_size - _SHOWN
    except OSError:
        return "There is no card."
    return text + (f"\n({more:,} more bytes are not shown)" if more > 0 else "")


def _since(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return what is different, by key: the old and the new value, as they are written.

    So many rows at most, and one that says how many more there are.
    """
    found = list[tuple[str, str, str]]()
    different = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    for key in different[:_ROWS]:
        before, after = (
            json.dumps(one[key], ensure_ascii=True)[:_VALUE] if key in one else "none"
            for one in (old, new)
        )
        found.append((key[:_KEY], before, after))
    if more := len(different) - len(found):
        found.append((f"and {more} more", "not shown", "not shown"))
    return tuple(found)
