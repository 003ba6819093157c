"""What sites and coordinators speak, which has a version of its own: releases come and go.

The version counts documents (invitations, requests), messages (`fedlite/messages.py`), and what the
code of a bundle finds in the library that a site has installed. It rises when a side that has not
been upgraded would misunderstand one of them, and then a release should speak the one before, too.
A side that says nothing speaks version 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import fedlite

# The oldest and the newest version that this release speaks.
SPOKEN = (1, 1)
_TEXT = re.compile(r"([1-9][0-9]{0,5})(?:-([1-9][0-9]{0,5}))?")
# In every answer of a gateway: the release, and what it speaks.
HEADER = "Fedlite"


def spoken() -> str:
    """Return what this release speaks, as documents say it: "1", or "1-3"."""
    oldest, newest = SPOKEN
    return str(oldest) if oldest == newest else f"{oldest}-{newest}"


def parse(text: str) -> tuple[int, int]:
    """Return the oldest and the newest version of a text; "" is (1, 1). Raises ValueError."""
    match = _TEXT.fullmatch(text or "1")
    oldest, newest = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if oldest > newest:
        raise ValueError(f"protocol: must be a version or a range such as 1-3, got {text[:40]!r}")
    return oldest, newest


@dataclass(frozen=True)
class Release:
    """What a side runs. version: of fedlite. protocol: what it speaks, by `parse`; "" is "1".

    Raises ValueError for a version that is not 1 to 64 printable characters without spaces.
    """

    version: str
    protocol: str = ""

    def __post_init__(self) -> None:
        """Check both."""
        if not (0 < len(self.version) <= 64 and self.version.isprintable()) or " " in self.version:
            raise ValueError(f"fedlite: must be a version, got {self.version[:64]!r}")
        parse(self.protocol)

    @property
    def problem(self) -> str:
        """Why a side that runs this and one that runs what is here do not understand each other,
        with the mend; "" where they do.
        """
        oldest, newest = parse(self.protocol)
        if oldest <= SPOKEN[1] and newest >= SPOKEN[0]:
            return ""
        mend = "upgrade fedlite " + ("here" if oldest > SPOKEN[1] else "there")
        return (
            f"protocol: fedlite {self.version} there speaks {self.protocol or 1}, fedlite "
            f"{fedlite.__version__} here {spoken()}; {mend}"
        )


def header() -> str:
    """Return what a gateway says of itself."""
    return f"{fedlite.__version__} {spoken()}"


def of_header(text: str | None) -> Release | None:
    """Return what a gateway said of itself, None where it said nothing that can be read."""
    version, _, protocol = (text or "").partition(" ")
    try:
        return Release(version, protocol)
    except ValueError:
        return None
