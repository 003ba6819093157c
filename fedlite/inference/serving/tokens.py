"""Who may ask a server for what: names with a role and a token of which only the hash is kept.

The file is TOML, a table a name. A token is 32 random bytes, so a plain SHA-256 of it tells
nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedlite.settings import choice, section, setting
from fedlite.storage import stamp, write_atomic

ROLES = ("client", "operator", "auditor")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LONGEST, _MOST = 256, 10_000


def _is_time(text: str) -> bool:
    try:
        return bool(datetime.strptime(text, _TIME))
    except ValueError:
        return False


@dataclass(frozen=True)
class Holder:
    """A name that has a token. expires: in UTC."""

    role: str = choice("client", *ROLES)
    sha256: str = setting(
        "0" * 64, "64 lower-case hex digits", lambda v: re.fullmatch("[0-9a-f]{64}", v) is not None
    )
    expires: str = setting("1970-01-01T00:00:00Z", "a time such as 2027-01-31T00:00:00Z", _is_time)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return datetime.now(UTC) >= datetime.strptime(self.expires, _TIME).replace(tzinfo=UTC)


def read(path: Path) -> dict[str, Holder]:
    """Return the holders in a file by name.

    Raises ValueError for a file that is not there, is of another form, or that others may write.
    """
    try:
        mode = path.stat().st_mode
        told = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; make it with `fedlite operate token {path} NAME`"
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as TOML ({error}); correct it") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{path}: must be written by its owner alone; chmod 600 {path}")
    errors: list[str] = []
    found: dict[str, Holder] = {}
    tables = told.get("tokens", {})
    if not isinstance(tables, dict) or told.keys() - {"tokens"}:
        raise ValueError(f"{path}: must hold tables [tokens.NAME] and nothing else; correct it")
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            errors.append(f"tokens.{name!r:.80}: must be a table with a name of {_RULE}")
            continue
        missing = [key for key in ("role", "sha256", "expires") if key not in table]
        errors += [f"tokens.{name}.{key}: must be there" for key in missing]
        found[name] = section(f"tokens.{name}", Holder, table, errors)
    if len(found) > _MOST:
        errors.append(f"must have at most {_MOST} names, got {len(found)}")
    if errors:
        raise ValueError("\n".join(f"{path}: {error}" for error in errors))
    return found


_RULE = "1 to 64 letters, digits, '_', '-' and '.'"


def add(path: Path, name: str, role: str, days: int, *, again: bool = False) -> str:
    """Write a name with a new token into a file, made where there is none, and return the token.

    days: until it expires, from 1 to 3650. again: whether a name that is there gets another token.

    Raises ValueError for a name, role or number of days that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"NAME: must be of {_RULE}, got {name!r:.80}")
    if role not in ROLES:
        raise ValueError(f"--role: must be one of {', '.join(ROLES)}, got {role!r:.80}")
    if not 1 <= days <= 3650:
        raise ValueError(f"--days: must be from 1 to 3650, got {days}")
    holders = read(path) if path.exists() else {}
    if name in holders and not again:
        raise ValueError(
            f"NAME: must be a new one, got {name!r}; --again gives it another token, and ends the "
            "one that it has"
        )
    token = secrets.token_urlsafe(32)
    until = (datetime.now(UTC) + timedelta(days=days)).strftime(_TIME)
    _write(path, holders | {name: Holder(role, _hash(token), until)})
    return token


def revoke(path: Path, name: str) -> None:
    """Take a name out of a file; a server that reads it knows within a second.

    Raises ValueError where it is not there.
    """
    holders = read(path)
    if name not in holders:
        known = ", ".join(sorted(holders)) or "nobody"
        raise ValueError(f"NAME: must be in {path}, got {name!r:.80}; there is {known}")
    _write(path, {other: one for other, one in holders.items() if other != name})


def _write(path: Path, holders: dict[str, Holder]) -> None:
    import tomli_w

    told: dict[str, Any] = {"tokens": {name: asdict(one) for name, one in holders.items()}}
    write_atomic(path, tomli_w.dumps(told).encode(), 0o600)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The holders in a file, read again when it changes. Where it cannot be read, nobody is known.

    problem: what is wrong with the file now, or nothing.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; raises ValueError as `read` does."""
        self.path, self.problem = path, ""
        self._stamp, self._holders = stamp(path), read(path)

    def who(self, token: str) -> tuple[str, Holder] | None:
        """Return whose a token is; None where it is nobody's, or has expired.

        Takes as long for a token that is nearly right as for any other.
        """
        self._renew()
        given, found = _hash(token[: _LONGEST + 1]), None
        for name, one in self._holders.items():
            if hmac.compare_digest(one.sha256, given):
                found = name, one
        return None if found is None or found[1].expired else found

    def _renew(self) -> None:
        if (now := stamp(self.path)) == self._stamp:
            return
        self._stamp, self._holders, self.problem = now, {}, ""
        try:
            self._holders = read(self.path)
        except ValueError as error:
            self.problem = str(error)
