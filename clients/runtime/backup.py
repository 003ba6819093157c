"""A site in one file, and back: what nobody could make again, and nothing that may be stale.

In it are policy, keys, ledgers, journal, records of runs, approved bundles, and of each coordinator
the invitation, authority, request and node key, and which bundle it has released and was in use
(not its files: they are fetched again). Not in it: records of people; the message in
flight, which would be answered twice; the state of runs, as a run that went on has left it behind,
and a residual that was sent would be sent again (a site without one gets the whole model and begins
anew); status and logs.

A backup may be taken while the site runs. A restore never replaces what is there, but for a ledger
by one that goes on from it, and refuses a ledger that is older than one that this machine has seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import fedlite
from clients.runtime import lock, runbook, seats, setup, shelf
from clients.runtime.seats import COORDINATOR
from clients.runtime.setup import CA, LEDGER, NEXT, NODE, POLICY, REQUEST, SECRET
from fedlite.deployment import archive
from fedlite.deployment.journal import Journal
from fedlite.guard import policy as site_policy
from fedlite.guard.folder import Home
from fedlite.guard.policy import SitePolicy
from fedlite.guard.register import Register
from fedlite.identity import keys
from fedlite.identity.names import site_problem
from fedlite.privacy.ledger import Row, forget, read
from fedlite.privacy.ledger.lock import Lock
from fedlite.privacy.ledger.rows import Head
from fedlite.storage import write_atomic

_SIGNERS = (LEDGER, "keys/ledger.next.pem")
_OF_SITE = (POLICY, *_SIGNERS, SECRET)
# Of releases the numbers, without which an old one could come back.
_RELEASES = (f"{shelf.FOLDER}/{shelf.STATE}", f"{shelf.FOLDER}/{shelf.ANNOUNCED}")
_OF_SEAT = (COORDINATOR, CA, REQUEST, NODE, NEXT, *_RELEASES)
_NEEDED = (POLICY, LEDGER, SECRET)
_PLACE = re.compile(
    "|".join(
        [
            *map(re.escape, _OF_SITE),
            rf"(?:{seats.FURTHER}/[a-z0-9-]+/)?(?:{'|'.join(map(re.escape, _OF_SEAT))})",
            r"audit/audit-\d{4}-\d\d\.jsonl",
            r"ledgers/(?P<dataset>[^/]+)\.jsonl",
            rf"{runbook.FOLDER}/[0-9a-f]{{16}}\.jsonl",
            r"bundles/[0-9a-f]{64}/.+",
        ]
    )
)
_STAGING = ".restore-"
_TRIES = 5


@dataclass(frozen=True)
class Saved:
    """A backup that was written. sha256: of the file, hex."""

    site: str
    path: Path
    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Restored:
    """What a restore did: names in the site's folder, and what its operator has to look at."""

    site: str
    written: tuple[str, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]


def backup(home: Path, out: Path) -> Saved:
    """Write all that has to be kept of the site into `out` (0600), also while it runs.

    Raises ValueError when the policy cannot be read, a ledger does not verify or its key is
    missing, or `out` is in the site's folder or is another file; RuntimeError when keys or policy
    go on changing meanwhile.
    """
    if out.resolve().is_relative_to(home.resolve()):
        raise ValueError(f"{out}: must not be in the site's folder, which it is to outlive")
    if out.exists() and not (out.is_file() and archive.is_one(out)):
        raise ValueError(f"{out}: is another file, which is never overwritten; name a new one")
    policy = site_policy.load(home / POLICY)
    files = _collect(home)
    data = archive.pack(files, {"site": policy.site, "fedlite": fedlite.__version__})
    write_atomic(out, data, 0o600)
    saved = Saved(policy.site, out, len(files), len(data), hashlib.sha256(data).hexdigest())
    Journal(home / "audit").write("backup", file=str(out.absolute()), sha256=saved.sha256)
    return saved


def restore(source: Path, home: Path) -> Restored:
    """Put a backup into a new folder, or what a site's folder has lost back into it.

    Raises ValueError when `home` is another site's or holds other files, the file is no backup, or
    a ledger in it is older than one that was seen here; Held while the site runs.
    """
    made = not home.exists()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = made or not any(home.iterdir())
    try:
        with _alone(home), _staging(home) as staging:
            about = archive.unpack(source, staging, _may_be)
            policy = _check_whole(source, staging)
            _check_same(home, staging, policy)
            ledgers = _ledgers_to_keep(home, staging, policy.site)
            for name, rows in ledgers.items():
                # What is there stays, and so the key of the longer ledger may not be among them.
                both = [p if (p := home / key).exists() else staging / key for key in _SIGNERS]
                _check_key(f"ledger of {name!r}", rows, both)
            written, kept = _move(home, staging, ledgers)
    except BaseException:
        if fresh and {path.name for path in home.iterdir()} <= {lock.NAME}:
            (home / lock.NAME).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the operator's own, or a mount
                if made:
                    home.rmdir()
        raise
    policy = site_policy.load(home / POLICY)
    setup.init(home, policy.site)
    register = Register.own()
    for name, rows in ledgers.items():
        register.note(Home(home, policy.site, name), _head(rows))
    Journal(home / "audit").write("restore", files=len(written), release=about.get("fedlite", ""))
    return Restored(policy.site, tuple(written), tuple(kept), tuple(_warnings(home, policy)))


# What is kept --------------------------------------------------------------------------------


def _collect(home: Path) -> dict[str, bytes]:
    """Return the content of every file to be kept, by its name; of ledgers whole rows only."""
    for _ in range(_TRIES):
        small = _small(home)
        ledgers = {path.name: read(path) for path in sorted((home / "ledgers").glob("*.jsonl"))}
        wrong = _without_key(home, ledgers)
        if small == _small(home):
            break
    else:
        raise RuntimeError(f"{home}: policy or keys go on changing; back it up again")
    if wrong is not None:
        raise wrong
    files = dict(small)
    for name, rows in ledgers.items():
        if rows:  # its first one is being written, or was lost with the power
            files[f"ledgers/{name}"] = b"".join(row.line for row in rows)
    for path in [*home.glob("audit/audit-*.jsonl"), *home.glob(f"{runbook.FOLDER}/*.jsonl")]:
        with contextlib.suppress(FileNotFoundError):  # a month that has just become too old
            whole = path.read_bytes()
            files[path.relative_to(home).as_posix()] = whole[: whole.rfind(b"\n") + 1]
    for one in site_policy.load(home / POLICY).bundles:
        folder = home / "bundles" / one.sha256
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            files[path.relative_to(home).as_posix()] = path.read_bytes()
    return {name: data for name, data in files.items() if _may_be(name)}


def _small(home: Path) -> dict[str, bytes]:
    """Return policy, keys, and what there is of each coordinator, as they are at this moment."""
    paths = [home / name for name in _OF_SITE]
    for seat in dict.fromkeys([home, *seats.every(home)]):
        paths += [seat / name for name in _OF_SEAT]
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path.relative_to(home).as_posix()] = path.read_bytes()
    return found


def _without_key(home: Path, ledgers: dict[str, list[Row]]) -> ValueError | None:
    """Return what is wrong with the keys of these ledgers, as they are at this moment."""
    try:
        for name, rows in ledgers.items():
            if rows:
                where = str(home / "ledgers" / name)
                _check_key(where, rows, [home / key for key in _SIGNERS])
    except ValueError as error:
        return error
    return None


def _check_key(where: str, rows: list[Row], known: list[Path]) -> None:
    """Raise ValueError unless the key that signs the ledger's next row is among the files."""
    rotated = [row.body["key"] for row in rows if row.kind == "key-rotate"]
    signer = str((rotated or [rows[0].body["key"]])[-1])
    if signer not in [keys.public_hex(keys.load(path)) for path in known if path.exists()]:
        raise ValueError(
            f"{where}: goes on with the key {signer[:16]}..., and {known[0]} is not that one; put "
            "it there: a ledger is worth nothing without its key. Of a site that is restored, move "
            "a key away that is older than the backup"
        )


def _may_be(name: str) -> bool:
    found = _PLACE.fullmatch(name)
    return found is not None and not site_problem(found["dataset"] or "x")


# What is restored ----------------------------------------------------------------------------


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the folder of every coordinator, so that no process of the site runs."""
    with ExitStack() as stack:
        for seat in dict.fromkeys([home, *seats.every(home)]):
            stack.enter_context(lock.hold(seat))
        yield


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    for left in home.glob(f"{_STAGING}*"):
        shutil.rmtree(left)
    staging = Path(tempfile.mkdtemp(dir=home, prefix=_STAGING))
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _check_whole(source: Path, staging: Path) -> SitePolicy:
    for name in _NEEDED:
        if not (staging / name).is_file():
            raise ValueError(f"{source}: holds no {name}, so it is no site's backup")
    for path in (staging / "ledgers").glob("*.jsonl"):
        _check_key(f"{source}: {path.name}", read(path), [staging / key for key in _SIGNERS])
    return site_policy.load(staging / POLICY)


def _check_same(home: Path, staging: Path, policy: SitePolicy) -> None:
    """Raise ValueError unless the folder is empty, or is the same site's."""
    own = {path.name for path in home.iterdir()} - {lock.NAME, staging.name}
    if not own:
        return
    secret = home / SECRET
    same = secret.is_file() and secret.read_bytes() == (staging / SECRET).read_bytes()
    if not same:
        raise ValueError(
            f"{home}: holds another site or other files, such as {min(own)!r}; name a new folder"
        )
    if (home / POLICY).exists() and site_policy.load(home / POLICY).site != policy.site:
        raise ValueError(
            f"{home / POLICY}: is not of site {policy.site!r}, and its keys are; mend the name"
        )


def _ledgers_to_keep(home: Path, staging: Path, site: str) -> dict[str, list[Row]]:
    """Return for each data set the rows that the folder will have, none of them seen and lost."""
    found: dict[str, list[list[Row]]] = {}
    register = Register.own()
    for folder in (staging, home):
        for path in sorted((folder / "ledgers").glob("*.jsonl")):
            found.setdefault(path.stem, []).append(read(path))
    named = {one.name for one in site_policy.load(staging / POLICY).data}
    kept = {}
    for dataset in sorted(named | set(found)):
        copies = sorted(found.get(dataset, []), key=len)
        where = f"ledger of {dataset!r}"
        if len(copies) == 2 and copies[1][len(copies[0]) - 1].hash != copies[0][-1].hash:
            raise ValueError(
                f"{where}: the backup's and that in {home} have both gone on by themselves, so one "
                "is of a copy that was used; move the wrong one away, and restore again"
            )
        rows = copies[-1] if copies else []
        seen = register.seen(Home(staging, site, dataset))
        if seen is None:
            if rows:
                kept[dataset] = rows
            continue
        there = Path(seen.home)
        if there != home.resolve() and _same_secret(there, staging):
            raise ValueError(
                f"{there}: is this site, on this machine; two copies of one site would spend one "
                "budget twice: restore into that folder, or remove it first"
            )
        if lacking := register.lacking(Home(staging, site, dataset), rows):
            raise ValueError(
                f"{where}, of the backup: {lacking}: with it, what was spent since would be spent "
                "again; restore a newer backup. If there is none, make a new site, and the data's "
                "owner decides: `fedlite site adopt`"
            )
        kept[dataset] = rows
    return kept


def _same_secret(there: Path, staging: Path) -> bool:
    try:
        return (there / SECRET).read_bytes() == (staging / SECRET).read_bytes()
    except OSError:
        return False


def _move(home: Path, staging: Path, ledgers: dict[str, list[Row]]) -> tuple[list[str], list[str]]:
    """Move what is missing: first what says whose it is, last the policy, without which all rests.

    So a restore that was cut off is finished by the next.
    """
    written, kept = [], []
    names = [p.relative_to(staging).as_posix() for p in staging.rglob("*") if p.is_file()]
    names = [name for name in names if not name.endswith(".lock")]
    for name in sorted(names, key=lambda name: (name != SECRET, name == POLICY, name)):
        target = home / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = _PLACE.fullmatch(name)
        if found and found["dataset"]:
            if target.exists() and len(read(target)) == len(ledgers[found["dataset"]]):
                kept.append(name)
                continue
            _replace_ledger(staging / name, target)
        elif os.path.lexists(target):
            kept.append(name)
            continue
        else:
            write_atomic(target, (staging / name).read_bytes(), 0o600)
        written.append(name)
    return written, kept


def _replace_ledger(source: Path, target: Path) -> None:
    held = Lock(os.path.realpath(target), 60.0)
    try:
        write_atomic(target, source.read_bytes(), 0o600)
        forget(target)
    finally:
        held.release()


def _head(rows: list[Row]) -> Head:
    last = rows[-1]
    return Head(rows[0].hash, last.seq, last.hash, last.signature)


def _warnings(home: Path, policy: SitePolicy) -> Iterator[str]:
    for one in policy.data:
        if one.path and not one.file(home).exists():
            yield f"[data.{one.name}] path: {one.file(home)} is not there; put the records back"
    if policy.bundles:
        yield (
            f"{home / POLICY}: approves {len(policy.bundles)} bundles; one whose approval was "
            "taken back since is among them again: look at its tables [bundles.*]"
        )
