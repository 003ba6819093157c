"""A site's seats: what it has with each of the coordinators that it has joined.

The site's folder is the first. Each further one is HOME/coordinators/NAME, with the same files:
invitation, authority, request and node key, the message in flight, the state of its runs, status
and logs. A seat has a node key of its own: by one that two coordinators knew, each could speak to
the other as the site. Policy, ledgers, their key, approved bundles and the journal are the site's,
and so is the budget: whatever all coordinators ask for is spent from one.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from fedlite.deployment import document
from fedlite.deployment.invitation import Invitation

COORDINATOR = "coordinator.json"
FURTHER = "coordinators"
_ASK = "the coordinator's operator sends it to you"


def joined(seat: Path) -> Invitation:
    """Return the invitation that was taken there; raises ValueError when there is none."""
    path = seat / COORDINATOR
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file, so the site has not joined a coordinator; run "
            f"`fedlite site join {seat} INVITATION`"
        )
    return document.read(path, Invitation.decode, _ASK)


def folders(home: Path) -> list[Path]:
    """Return all seats, left ones included."""
    return [home, *sorted(path for path in (home / FURTHER).glob("*") if path.is_dir())]


def every(home: Path) -> list[Path]:
    """Return the seats that have joined a coordinator, the first one first."""
    return [seat for seat in folders(home) if (seat / COORDINATOR).is_file()]


def readable(home: Path) -> dict[Path, Invitation]:
    """Return what was joined at each seat; one whose invitation is damaged is left out."""
    found = {}
    for seat in every(home):
        with suppress(ValueError, OSError):
            found[seat] = joined(seat)
    return found


def known(home: Path, invitation: Invitation) -> Path | None:
    """Return the seat with the coordinator of an invitation; None when it was never joined."""
    for seat, taken in readable(home).items():
        if taken.fingerprint == invitation.fingerprint:
            return seat
    return None


def free(home: Path, invitation: Invitation) -> Path:
    """Return where a seat with this coordinator belongs; nothing is made.

    Two whose names and authorities are like one another may not get the same, with the same key.
    """
    if not every(home):
        return home
    name = re.sub(r"[^A-Za-z0-9]+", "-", invitation.name).strip("-").lower()[:32] or "coordinator"
    return home / FURTHER / f"{name}-{invitation.fingerprint.replace(':', '')[:32].lower()}"


def of(home: Path, coordinator: str) -> Path:
    """Return the seat with the coordinator of that name, or address, or in that folder of `home`.

    "" is the only one. Folders come first: they are the site's own words, and a coordinator is
    called as it likes. Raises ValueError, naming those that there are.
    """
    seats = every(home)
    if not coordinator and len(seats) <= 1:
        return next(iter(seats), home)
    if places := [seat for seat in seats if place(home, seat) == coordinator]:
        return places[0]
    found = readable(home)
    told = {seat: (one.name, one.address, place(home, seat)) for seat, one in found.items()}
    meant = [seat for seat, names in told.items() if coordinator in names]
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(f"{name!r} ({at}, in {folder})" for name, at, folder in told.values())
    raise ValueError(
        f"--coordinator: must name one that {home} has joined, by its name, address or folder, and "
        f"no second one: {known or 'none yet'}; got {coordinator!r}"
    )


def place(home: Path, seat: Path) -> str:
    """Return where in the site's folder a seat is; "." for the first."""
    return seat.relative_to(home).as_posix()
