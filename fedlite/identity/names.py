"""What a site and a data owner may be called."""

from __future__ import annotations

import re


def site_problem(name: str) -> str:
    """Return what is wrong with a site's name, or nothing."""
    good = 0 < len(name) <= 64 and name.isprintable() and "/" not in name and name[0] != "."
    return "" if good else f"site: must be 1 to 64 printable characters, no '/', got {name!r}"


def member_problem(name: str) -> str:
    """Return what is wrong with a site's name where people compare members' keys, or nothing.

    Of letters that look alike, spaces or a colon one could make a name that passes for another, or
    for a key.
    """
    good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)
    return (
        ""
        if good
        else f"must be 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first, got {name!r:.80}"
    )


def owner_problem(owner: str) -> str:
    """Return what is wrong with a data owner's key, or nothing."""
    good = not owner or re.fullmatch(r"[0-9a-f]{64}", owner)
    return "" if good else f"owner: must be 64 lower-case hex digits or empty, got {owner[:80]!r}"
