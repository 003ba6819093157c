"""Who shares noise at real sites, as a scenario says it: names and the keys that people approve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fedlite.identity.names import member_problem
from fedlite.settings import pairs_of

_KEY = re.compile(r"[0-9a-f]{64}")


def members_of(text: str) -> dict[str, str]:
    """Return the members' public ledger keys, 64 hex digits each, by the names of their sites.

    text: a JSON object, or empty for nobody. Raises ValueError where it is none, or a name or a key
    is wrong or stands there twice, be it in other letters' size: people compare them by eye.

    >>> members_of('{"north": "' + 64 * "a" + '"}').keys()
    dict_keys(['north'])
    """
    found: dict[str, str] = {}
    for name, key in pairs_of(text):
        if problem := member_problem(name):
            raise ValueError(f"a member's name {problem}")
        if name.casefold() in {other.casefold() for other in found}:
            raise ValueError(f"must name sites, each once, got {name!r:.80} again")
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key in found.values():
            raise ValueError(f"must have keys of 64 lower-case hex digits, each once, for {name!r}")
        found[name] = key
    return found


def text_of(members: Mapping[str, str]) -> str:
    """Return the one text of these members: the same for everybody who knows them."""
    return json.dumps(dict(sorted(members.items())), ensure_ascii=False)
