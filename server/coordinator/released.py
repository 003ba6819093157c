"""Bundles that a coordinator releases to its sites: copied, announced under its key, handed out.

`COORD/releases/announced.json` is the announcement in force; the files lie beside it, in a folder
that is called by the SHA-256 of their manifest. The one before stays, as a site may be fetching it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from fedlite.identity import keys
from fedlite.inference import announcement
from fedlite.inference.announcement import PART_BYTES, Announcement, File
from fedlite.storage import write_atomic
from server.coordinator.folder import Coordinator

ANNOUNCED = "announced.json"
# What sites ask at the gateway, beside Flower's own paths.
PATHS = ("released", "released-part")


def release(coordinator: Coordinator, bundle: Path, note: str = "") -> Announcement:
    """Release a bundle to all approved sites, in the place of the one before.

    The bundle is loaded and tried out first, and what is copied is what was. Raises ValueError
    where it is none, or the note is no line.
    """
    from fedlite.inference.bundle import load
    from fedlite.inference.programs import unreleased

    if bundle.is_dir() and (why := unreleased(path.name for path in bundle.iterdir())):
        raise ValueError(f"{bundle}: {why}")
    loaded = load(bundle)
    folder = coordinator.releases
    before = current(coordinator)
    # Read once: what is announced is what is written, whoever changes the folder meanwhile.
    names = sorted(path.name for path in bundle.iterdir())
    contents = {name: (bundle / name).read_bytes() for name in names}
    number = max(int(time.time()), before.number + 1 if before else 0)
    files = {
        name: File(len(content), announcement.digest(content)) for name, content in contents.items()
    }
    made = Announcement(number, str(loaded.told.get("scenario", ""))[:64], note, files)
    signed = made.encode(keys.load(coordinator.witness_key))
    target = folder / made.sha256
    if not _is(target, contents):
        part = folder / f".{made.sha256}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700, parents=True)
        for name, content in contents.items():
            write_atomic(part / name, content)
        # What others see is whole, and is a bundle still.
        load(part, signed_by=loaded.signed_by)
        # What was damaged is mended so.
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    write_atomic(folder / ANNOUNCED, signed)
    coordinator.journal.write(
        "release", bundle=made.sha256, name=made.name, number=number, bytes=made.size, note=note
    )
    keep = {made.sha256, before.sha256 if before else ""}
    for other in folder.iterdir():
        if other.is_dir() and other.name not in keep:
            shutil.rmtree(other)
    return made


def _is(folder: Path, contents: Mapping[str, bytes]) -> bool:
    """Return whether a folder holds these files, and nothing else."""
    try:
        return {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    except OSError:
        return False


def current(coordinator: Coordinator) -> Announcement | None:
    """Return what is released now; raises ValueError where the file is damaged."""
    try:
        data = (coordinator.releases / ANNOUNCED).read_bytes()
    except FileNotFoundError:
        return None
    return Announcement.decode(data, keys.public_hex(keys.load(coordinator.witness_key)))


def answer(folder: Path, path: str, body: bytes) -> bytes:
    """Return what a site is answered; nothing where there is no such release, file or part.

    folder: `COORD/releases`. body: of "released-part" a JSON list of the release's SHA-256, a
    file's name and the first byte that is wanted.
    """
    try:
        if path == "released":
            return (folder / ANNOUNCED).read_bytes()
        told: tuple[str, str, int] = json.loads(body)
        sha256, name, begin = told
        if not announcement.DIGEST.fullmatch(sha256) or not announcement.NAME.fullmatch(name):
            return b""
        with (folder / sha256 / name).open("rb") as file:
            file.seek(begin)
            return file.read(PART_BYTES)
    except (OSError, ValueError, TypeError, RecursionError, OverflowError):
        return b""
