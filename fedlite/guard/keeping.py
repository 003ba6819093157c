"""What the `fedlite site` command does with a data owner's key and the site's ledgers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlite.deployment.journal import Journal
from fedlite.guard import policy as site_policy
from fedlite.guard.folder import Home
from fedlite.guard.grants import sign_grant
from fedlite.guard.register import Register
from fedlite.identity import keys
from fedlite.privacy.budget import Account, Budget
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger import Ledger, read, recover
from fedlite.storage import write_atomic

_KEYS = {"dataset", "grant", "ledger", "policy", "site"}


def owner_key(path: Path) -> str:
    """Make the data owner's key at `path`, if there is none, and return its public half in hex."""
    return keys.public_hex(keys.load_or_generate(path))


def make_grant(ledger: Path, key: Path, changes: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Sign `changes` to the policy in force in `ledger`, write the grant to `out`, return it.

    Raises ValueError when the key is not that of the ledger's owner, when nothing would be allowed
    that is not allowed yet, and when `out` exists.
    """
    if out.exists():
        raise ValueError(f"{out}: already exists, and a grant is never overwritten; name another")
    rows = read(ledger)
    account = Account.of(rows)
    wanted = replace(account.policy, **changes)
    grant = {
        "site": rows[0].body["site"],
        "dataset": rows[0].body["dataset"],
        "ledger": account.id,
        "policy": wanted.body(),
        "grant": sign_grant(keys.load(key), rows, wanted),
    }
    write_atomic(out, json.dumps(grant, indent=2, sort_keys=True).encode() + b"\n")
    return grant


def apply_grant(home: Path, path: Path) -> dict[str, Any]:
    """Put the grant in `path` in force at the site whose folder is `home`.

    Returns the policy that is then in force. Raises ValueError when the grant is no grant, for
    another ledger, not by its owner, or has been used, and when site.toml allows less.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the data owner makes it with `fedlite site grant`")
    try:
        grant = json.loads(path.read_text(encoding="utf-8"))
        if set(grant) != _KEYS:
            raise TypeError
        wanted = Policy.of(grant["policy"])
        signature = str(grant["grant"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(
            f"{path}: is no grant; the data owner makes one with `fedlite site grant`"
        ) from None
    ledger = _ledger(home, str(grant["dataset"]))
    if read(ledger)[0].hash != grant["ledger"]:
        raise ValueError(f"{path}: is for another ledger than {ledger}, of {grant['site']!r}")
    # What the site's own file allows less of would be written back, and the grant be used up.
    held_back = wanted.beyond(site_policy.load(home / "site.toml"))
    if held_back:
        raise ValueError(
            f"{home / 'site.toml'}: allows less than the grant in {', '.join(held_back)}, and the "
            "lower of the two counts; raise it there first"
        )
    with Ledger.open(ledger, keys.load(home / "keys" / "ledger.pem"), wait=60.0) as opened:
        budget = Budget(opened)
        budget.raise_to(wanted, signature)
        return budget.account.policy.body()


def adopt(home: Path, dataset: str, key: Path | None) -> list[str]:
    """Give a data set's records to the site, and let it begin a ledger anew where one was lost.

    key: the data owner's, needed where an owner is named: by this site's policy, or by the site
    that spent on the records. Returns the folders that lose them. Raises ValueError.
    """
    policy, register = site_policy.load(home / "site.toml"), Register.own()
    chosen = policy.data_set(dataset)
    if chosen is None:
        known = ", ".join(one.name for one in policy.data) or "none"
        raise ValueError(f"{home}: has no [data.{dataset}]; those here: {known}")
    place = Home(home, policy.site, dataset)
    others = register.conflicts(place, chosen)
    if not others and register.seen(place) is None:
        raise ValueError(f"{home}: nothing stands in the way of [data.{dataset}]; nothing to adopt")
    if not others and place.ledger.exists():
        raise ValueError(
            f"{place.ledger}: is there, and is not what was written here last; move it away, so "
            "that both can be looked at, before a ledger is begun anew"
        )
    said = keys.public_hex(keys.load(key)) if key else ""
    for owner in {one.owner for one in others} | {policy.owner}:
        if owner and owner != said:
            raise ValueError(f"--key: must be the data owner's, whose public half is {owner}")
    register.adopt(place, chosen, policy.owner)
    Journal(home / "audit").write("adopt", dataset=dataset, owner=said)
    return [one.home for one in others]


def rotate_key(home: Path) -> tuple[str, int]:
    """Replace the key that signs a site's ledgers; return its public half and their number.

    Each ledger gets a row, signed by the old key, that hands over to the new one. Interrupted, it
    goes on where it stopped when it is called again; until then the site declines.
    """
    current, coming = home / "keys" / "ledger.pem", home / "keys" / "ledger.next.pem"
    old, new = keys.load(current), keys.load_or_generate(coming)
    ledgers = sorted((home / "ledgers").glob("*.jsonl"))
    for path in ledgers:
        if _signer(path) != keys.public_hex(new):
            with Ledger.open(path, old, wait=60.0) as ledger:
                ledger.rotate(new)
        with Ledger.open(path, new, wait=60.0) as ledger:
            if ledger.rows[-1].kind == "key-rotate":
                # A head is shown to servers with the key that signed it: this one is the new key's.
                policy = Account.of(ledger.rows).policy.body()
                ledger.append(("policy", {"policy": policy, "grant": ""}))
    os.replace(coming, current)
    return keys.public_hex(new), len(ledgers)


def _ledger(home: Path, dataset: str) -> Path:
    """Return the ledger of a data set; raises ValueError, naming those that there are."""
    found = {path.stem: path for path in sorted((home / "ledgers").glob("*.jsonl"))}
    if dataset not in found:
        known = ", ".join(found) or "none; is it a site's folder?"
        raise ValueError(f"{home}: has no ledger for {dataset!r}; those here: {known}")
    return found[dataset]


def _signer(path: Path) -> str:
    """Return the key in force at a ledger's end."""
    rows = read(path)
    rotated = [row.body["key"] for row in rows if row.kind == "key-rotate"]
    return str((rotated or [rows[0].body["key"]])[-1])


def recover_ledger(home: Path, dataset: str, *, drop_damaged_tail: bool) -> int:
    """Verify a ledger whose disk has failed, write it anew, and return its number of rows.

    Raises LedgerError when it cannot be verified; with `drop_damaged_tail` its damaged end, which
    was never flushed, is given up.
    """
    ledger = _ledger(home, dataset)
    key = keys.load(home / "keys" / "ledger.pem")
    head = recover(ledger, key, drop_damaged_tail=drop_damaged_tail)
    return 0 if head is None else head.seq + 1
