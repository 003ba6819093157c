"""How `site.toml` is written, and how bundles and a coordinator's key are put into it.

An edit leaves every other byte as the operator wrote it, and is one edit at a time: of two
approvals at the same moment, neither is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fedlite.guard.policy import ApprovedBundle, PolicyError, SitePolicy, parse, read_file
from fedlite.storage import write_atomic

__all__ = ["approve", "list_server", "revoke", "write"]


def write(path: Path, policy: SitePolicy) -> None:
    """Write a policy as TOML with its explanations, durably; replaces what is there."""
    write_atomic(path, _toml(policy).encode())


def _toml(policy: SitePolicy) -> str:
    limits = policy.limits
    text = f"""\
# What this site allows. The file is read anew in every round. Whatever is lowered here counts at
# once and is written into the ledgers; to raise a ceiling, or to allow more units or metrics, on a
# data set that has a ledger, the data owner must sign as well (`fedlite site grant`).

[site]
name = {json.dumps(policy.site, ensure_ascii=False)}
# The data owner's public key, 64 hex digits. Empty: no ceiling of a ledger can ever be raised.
# A ledger keeps the key that stands here when the data set is first trained on.
owner = "{policy.owner}"

[budget]
# What may be spent on one data set, over all runs and all servers: epsilon at this delta.
epsilon = {policy.epsilon!r}
delta = {policy.delta!r}
# The same over all data sets of this site, for a person who is in several. 0: no such ceiling.
person = {policy.person!r}
# What one run may spend by itself. 0: no such ceiling.
per_run = {policy.per_run!r}
# What may protect an update: "record" and "client-site" trust nobody but this site,
# "record-shared" and "client-shared" trust that enough of the other sites are honest,
# "client-server" trusts the server to add the noise, "none" is no protection at all.
units = {json.dumps(policy.units)}
# Where noise is shared: how many other sites this one trusts to be honest, that is to run the same
# code, and to tell nobody their noise nor use it to look. A plan that counts on more is refused.
# 0: nobody, local noise only.
honest = {policy.honest}
# What may be spent on one data set, over all runs, if all the others collude with the server all
# the same: epsilon at this delta, by this site's own noise alone. Not above budget.epsilon, as 0:
# budget.epsilon counts, so nothing may rest on others.
alone = {policy.alone!r}

[egress]
# What may leave beside an update: "records" is the number of training records; "counts" is, once a
# run, how many calibration records would be answered early, and how many of these wrongly.
metrics = {json.dumps(policy.metrics)}
# Replies leave at multiples of so many seconds after their instruction came, so that their time
# tells nothing of the records. Above what a round takes here, far below the run's deadline.
# 0: when they are ready.
clock = {policy.clock}

[servers]
# Public keys of the servers whose signature over the ledger's head is accepted. None: anybody's.
keys = {json.dumps(policy.servers)}

[limits]
# What approved code may compute on: "auto" (a GPU when there is one), "cpu", "cuda".
device = "{limits.device}"
# How many threads torch may use, 1 to 64. More than one pays only where the cores are idle.
threads = {limits.threads}
# The most bytes of one message that leaves, and of one that comes in. A larger one is refused.
up = {limits.up}
down = {limits.down}
# A round that takes longer than so many seconds is ended.
seconds = {limits.seconds}
# The most bytes that approved code may keep on the disk for one run.
state = {limits.state}
# Run approved code under the kernel's Landlock, so that it reads and writes only what it needs.
# false only where the kernel has none: approved code can then read whatever this user can.
sandbox = {json.dumps(limits.sandbox)}

[releases]
# Whether bundles of models are fetched that a coordinator has released: models that answer, no
# code. false: you are told of them. None is used before `fedlite site released` was asked.
fetch = {str(policy.releases.fetch).lower()}
# Of all files of one, in bytes; a larger one is not fetched.
bytes = {policy.releases.bytes}

# One table for each data set that runs may train on. NAME is the scenario's data.name.
#   [data.NAME]
#   source = "NAME"     what holds the records: a name from `fedlite data list`; for your own "csv",
#                       "parquet", "jsonl", "hf", "npz" or "images". Default: the table's name
#   part = ""           which site of a source that holds several. "": all of it
#   path = ""           your own only: the file or folder; a relative path starts at this folder
#   target = ""         your own tables only: the column of the labels; "" for texts that are learnt
#                       without (the task causal-lm)
#   epsilon = 0.0       ceiling of this data set; the lower of this and budget.epsilon counts.
#                       0: budget.epsilon
#   alone = 0.0         the same if all others collude, beside budget.alone. 0: this epsilon, where
#                       it is set; what is below the epsilon in force stands for that
#   records_at_most = 0 how many records it has at most, as you are content to tell everybody: a
#                       round number well above. What lies beyond it is not trained on. 0: not told
"""
    import tomli_w

    for one in policy.data:
        values = {key: value for key, value in vars(one).items() if key != "name"}
        text += "\n" + tomli_w.dumps({"data": {one.name: values}})
    text += """
# Bundles of code that may run here, by their SHA-256: `fedlite site approve` adds and removes them.
"""
    return text + "".join("\n" + _bundle_toml(one) for one in policy.bundles)


def _bundle_toml(bundle: ApprovedBundle) -> str:
    import tomli_w

    values = {key: value for key, value in vars(bundle).items() if key != "sha256"}
    if not bundle.at_most:
        del values["at_most"]
    return tomli_w.dumps({"bundles": {bundle.sha256: values}})


def approve(path: Path, bundle: ApprovedBundle) -> SitePolicy:
    """Add the table of an approved bundle to the file, in place of an older one of the same bundle.

    Every other byte stays as the operator wrote it. Returns the policy that is then in force.
    Raises PolicyError when the file is wrong, before or after, or its folder cannot be locked, and
    leaves the file as it is.
    """
    with _alone(path):
        content = read_file(path)
        old = parse(path, content)
        if old.bundle(bundle.sha256) is not None:
            content = _without(content, bundle.sha256)
        gap = b"" if not content or content.endswith(b"\n") else b"\n"
        kept = tuple(one for one in old.bundles if one.sha256 != bundle.sha256)
        added = content + gap + b"\n" + _bundle_toml(bundle).encode()
        return _replace_by(path, added, replace(old, bundles=(*kept, bundle)))


def revoke(path: Path, sha256: str) -> SitePolicy:
    """Remove the table of a bundle from the file; every other byte stays as the operator wrote it.

    Returns the policy that is then in force. Raises PolicyError when the file is wrong or has no
    such table, when the operator's own text around it cannot be told from it, and when the folder
    cannot be locked.
    """
    with _alone(path):
        content = read_file(path)
        old = parse(path, content)
        if old.bundle(sha256) is None:
            raise PolicyError(f"{path}: [bundles.{sha256}]: no such table; nothing was removed")
        kept = tuple(one for one in old.bundles if one.sha256 != sha256)
        return _replace_by(path, _without(content, sha256), replace(old, bundles=kept))


def list_server(path: Path, key: str) -> None:
    """Add a key to those in [servers] of a site.toml; all else stays as it is.

    Raises ValueError, and changes nothing, where the text is too unusual to be edited, or
    its folder cannot be locked.
    """
    with _alone(path):
        text = path.read_text(encoding="utf-8")
        before = tomllib.loads(text)
        listed = [*before.get("servers", {}).get("keys", []), key]
        entry = f"keys = {json.dumps(listed)}"
        lines, table, edited = text.splitlines(keepends=True), "", False
        for number, line in enumerate(lines):
            plain = line.split("#", 1)[0].replace(" ", "").strip()
            if plain.startswith("["):
                table = plain
            elif table == "[servers]" and plain.startswith("keys=[") and plain.endswith("]"):
                lines[number] = line.replace(line.split("#", 1)[0].strip(), entry, 1)
                edited = True
                break
        if not edited and "servers" not in before:
            lines += ["" if text.endswith("\n") or not text else "\n", f"\n[servers]\n{entry}\n"]
        content = "".join(lines)
        try:
            good = tomllib.loads(content) == before | {"servers": {"keys": listed}}
        except tomllib.TOMLDecodeError:
            good = False
        if not good:
            raise ValueError(
                f"{path}: [servers] keys cannot be told from the rest; write this there by hand: "
                f"{entry}"
            )
        write_atomic(path, content.encode())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one thread or process at a time edit the file; the lock ends with its process.

    It is on the folder: the file itself is another one after every edit.
    """
    try:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PolicyError(
            f"{path}: its folder cannot be opened ({error}); make a site with `fedlite site init`, "
            "or check the path"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise PolicyError(
                f"{path}: its folder cannot be locked ({error}); keep a site on a disk that has "
                "locks"
            ) from None
        yield
    finally:
        os.close(handle)


def _without(content: bytes, sha256: str) -> bytes:
    """Return the text without the tables of a bundle; comments that follow them stay."""
    header = re.compile(rb"\s*\[\s*bundles\s*\.\s*([\"']?)" + sha256.encode() + rb"\1\s*[\].]")
    lines = content.splitlines(keepends=True)
    kept: list[bytes] = []
    inside, waiting = False, list[bytes]()
    for line in lines:
        plain = line.strip()
        if plain.startswith(b"["):
            mine = header.match(line) is not None
            if mine and not inside and kept and not kept[-1].strip():
                kept.pop()
            # What stands between two tables of the same bundle goes with them.
            kept += [] if mine and inside else waiting
            inside, waiting = mine, []
        if not inside:
            kept.append(line)
        elif not plain or plain.startswith(b"#"):
            waiting.append(line)
        else:
            waiting = []
    return b"".join([*kept, *waiting])


def _replace_by(path: Path, content: bytes, expected: SitePolicy) -> SitePolicy:
    """Write the content if it says what it should; an unusual text is not edited by guesses."""
    found = parse(path, content)
    same = {one.sha256: one for one in found.bundles} == {o.sha256: o for o in expected.bundles}
    if not same or replace(found, bundles=()) != replace(expected, bundles=()):
        raise PolicyError(
            f"{path}: the tables of its bundles cannot be told from the rest; edit it by hand, "
            "with each table [bundles.SHA256] on lines of its own"
        )
    write_atomic(path, content)
    return found
