"""What a machine remembers of its sites' ledgers, outside of the sites' own folders.

Two things that a folder cannot tell of itself: how far its ledger had come, so that one that was
cut, restored from an old copy or deleted while nobody looked is found before the next step is
spent; and which folder spends on which records, so that a second one does not spend on them again.

```
REGISTER/secret                    keys the names of records: nobody can look a table up by them
REGISTER/heads/SITE-DATASET.json   the last row that was seen of a ledger
REGISTER/records/NAME.json         whose these records are
```
SITE is derived from the site's own secret, so that a folder that was moved is the same site, and a
copy of it too. The register is this user's, on this machine; what a coordinator has seen is its
witness's. Losing it loses these two checks and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedlite.guard.folder import Home
from fedlite.guard.policy import DataSet
from fedlite.identity import keys
from fedlite.privacy.ledger import Head, Row
from fedlite.storage import content_digest, write_atomic

# Where it is, below the folder of a user's state.
BELOW_STATE = "fedlite/register"


class Kept(ValueError):
    """The register speaks against spending here; the text says what it has seen, and the mend."""


@dataclass(frozen=True)
class Seen:
    """The last row that was seen of the ledger of a site's data set; `home` is where it was."""

    home: str
    dataset: str
    ledger: str
    seq: int
    hash: str


@dataclass(frozen=True)
class Claim:
    """A site's data set by which records are spent: all of them, or one `part`.

    owner: the data owner's public key, or "".
    """

    home: str
    site: str
    dataset: str
    part: str
    owner: str

    def of(self, other: Claim) -> bool:
        """Whether it is the same data set of the same site."""
        return (self.site, self.dataset) == (other.site, other.dataset)

    def meets(self, other: Claim) -> bool:
        """Whether a record may be in both."""
        return self.part == other.part or not self.part or not other.part


@dataclass(frozen=True)
class Register:
    """The register in `folder`."""

    folder: Path

    @classmethod
    def own(cls) -> Register:
        """Return this user's: `$FEDLITE_REGISTER`, else below `$XDG_STATE_HOME`.

        Raises Kept where that depends on the folder in which a command is called, or nobody
        says where this user's things are: there would be many.
        """
        if given := os.environ.get("FEDLITE_REGISTER"):
            if not os.path.isabs(given):
                raise Kept(f"FEDLITE_REGISTER: must be an absolute path, got {given!r:.200}")
            return cls(Path(given))
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):  # which is to be ignored, its specification says
            try:
                base = str(Path.home() / ".local" / "state")
            except RuntimeError:
                base = ""
        if not os.path.isabs(base):
            raise Kept(
                "FEDLITE_REGISTER: must be set to an absolute path where this user has no home"
            )
        return cls(Path(base) / BELOW_STATE)

    def problem(self) -> str:
        """Return why nothing can be remembered there, with the mend; makes the folder."""
        try:
            with self._alone():
                return ""
        except Kept as error:
            return str(error)

    # How far ledgers had come ------------------------------------------------------------------

    def check(self, home: Home, rows: Sequence[Row]) -> None:
        """Raise Kept when a ledger, of which these are all rows, lacks the one last seen of it."""
        if lacking := self.lacking(home, rows):
            raise Kept(
                f"{home.ledger}: {lacking}; put the newest copy back (`fedlite site restore`), or, "
                f"if there is none, the data's owner decides: `fedlite site adopt {home.path} "
                f"{home.dataset}`"
            )

    def lacking(self, home: Home, rows: Sequence[Row]) -> str:
        """Return what was seen of a ledger and is not in these rows of it; "" where nothing is."""
        seen = self.seen(home)
        if seen is None:
            return ""
        if not rows:
            what = "there is no ledger any more"
        elif rows[0].hash != seen.ledger:
            what = "this is another ledger"
        elif len(rows) <= seen.seq or rows[seen.seq].hash != seen.hash:
            what = f"it has {len(rows)} rows, and not that one"
        else:
            return ""
        return f"row {seen.seq} was written on this machine, and {what}"

    def note(self, home: Home, head: Head) -> None:
        """Remember the last row of a ledger; call it while the ledger is open."""
        seen = Seen(str(home.path.resolve()), home.dataset, head.ledger, head.seq, head.hash)
        if seen != self.seen(home):
            _write(self._head(home), asdict(seen))

    def seen(self, home: Home) -> Seen | None:
        """Return what was last seen of a site's ledger."""
        path = self._head(home)
        found = _read(path)
        try:
            return Seen(**found) if found else None
        except TypeError:
            raise _damaged(path) from None

    # Whose records are whose -------------------------------------------------------------------

    def claim(self, home: Home, chosen: DataSet, owner: str) -> None:
        """Remember that the site spends on these records; raise Kept when another one does.

        chosen: what `[data.NAME]` says. owner: the data owner's public key, or "".
        """
        with self._alone():
            self.check_claims(home, chosen)
            others, mine = self._claims(home, chosen), _mine(home, chosen, owner)
            if mine not in others:
                kept = [one for one in others if not one.of(mine)]
                self._write_claims(home, chosen, [*kept, mine])

    def check_claims(self, home: Home, chosen: DataSet) -> None:
        """Raise Kept when another site, or another data set of this one, spends on the records."""
        for known in self.conflicts(home, chosen):
            there = _lives(known)
            # What everybody may have is no secret: a claim whose folder has gone binds nobody.
            if there or chosen.path:
                raise Kept(_taken(home, chosen, known, there=there))

    def conflicts(self, home: Home, chosen: DataSet) -> list[Claim]:
        """Return the claims of others that stand in the site's way."""
        mine = _mine(home, chosen, "")
        return [one for one in self._claims(home, chosen) if one.meets(mine) and not one.of(mine)]

    def adopt(self, home: Home, chosen: DataSet, owner: str) -> None:
        """Give the records to this site, and let it begin a ledger anew: the data owner's word."""
        with self._alone():
            others, mine = self._claims(home, chosen), _mine(home, chosen, owner)
            kept = [one for one in others if not one.meets(mine)]
            self._write_claims(home, chosen, [*kept, mine])
            self._head(home).unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change the claims."""
        with _usable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(self.folder / "lock", timeout=60, fallback_to_soft=False)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _claims(self, home: Home, chosen: DataSet) -> list[Claim]:
        found = _read(self._records(home, chosen))
        try:
            return [Claim(**one) for one in found["claims"]] if found else []
        except (KeyError, TypeError):
            raise _damaged(self._records(home, chosen)) from None

    def _write_claims(self, home: Home, chosen: DataSet, claims: list[Claim]) -> None:
        path = self._records(home, chosen)
        _write(path, {"claims": [asdict(one) for one in claims]})

    def _records(self, home: Home, chosen: DataSet) -> Path:
        """Return the file of a set of records, named by what they are and not by where."""
        told = f"source {chosen.source}"
        if chosen.path:
            told = f"file {content_digest(chosen.file(home.path))}"
        with _usable(self.folder):
            secret = keys.secret(self.folder / "secret")
        name = hmac.new(secret, told.encode(), hashlib.sha256).hexdigest()
        return self.folder / "records" / f"{name}.json"

    def _head(self, home: Home) -> Path:
        dataset = hashlib.sha256(home.dataset.encode()).hexdigest()[:16]
        return self.folder / "heads" / f"{site_of(home)}-{dataset}.json"


def site_of(home: Home) -> str:
    """Return what names the site whose folder this is, wherever it lies; 32 hex digits."""
    secret = keys.secret(home.path / "keys" / "data.secret")
    return hashlib.sha256(b"fedlite site\0" + secret).hexdigest()[:32]


def _lives(known: Claim) -> bool:
    """Whether the site is where it was when it made the claim."""
    home = Home(Path(known.home), "", known.dataset)
    return (home.path / "keys" / "data.secret").is_file() and site_of(home) == known.site


def _taken(home: Home, chosen: DataSet, known: Claim, *, there: bool) -> str:
    if known.site == site_of(home):
        return (
            f"[data.{home.dataset}]: these records are [data.{known.dataset}] of this site already "
            "(rule: one budget for one set of records); let the scenario ask for that name"
        )
    gone = "" if there else ", which is not there any more,"
    mend = (
        f"one site may join several coordinators: `fedlite site join {known.home} INVITATION`"
        if there
        else f"put that folder back, or the data's owner decides: `fedlite site adopt {home.path} "
        f"{home.dataset}`"
    )
    if not chosen.path and there:
        mend += "; or give each site a part of the source of its own, in [data.NAME] or by --part"
    return (
        f"[data.{home.dataset}]: the site in {known.home}{gone} spends on these records (rule: one "
        f"budget for one set of records); {mend}"
    )


def _write(path: Path, fields: dict[str, Any]) -> None:
    with _usable(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, json.dumps(fields, indent=1, sort_keys=True).encode())


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Tell an error of the disk as one of the register: what is not remembered may not be spent."""
    try:
        yield
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> Kept:
    return Kept(
        f"{path}: the register must be readable and writable for this user, and is not "
        f"({error.strerror or error}); mend that, or name a folder by FEDLITE_REGISTER, the same "
        "one for all sites; a unit of systemd needs it in ReadWritePaths="
    )


def _mine(home: Home, chosen: DataSet, owner: str) -> Claim:
    return Claim(str(home.path.resolve()), site_of(home), home.dataset, chosen.part, owner)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> Kept:
    return Kept(
        f"{path}: must be what the register wrote, and is damaged; restore it from a copy, or "
        "remove it, which gives up what it remembers"
    )
