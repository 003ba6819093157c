"""A folder whose files are named, hashed and signed: changed, cut or added to, it is refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.storage import write_atomic

MANIFEST = "manifest.json"
FORMAT = "fedlite-bundle-1"
# All files together: graphs of TinyML; more is no bundle of ours.
_LARGEST = 1 << 30
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MEND = "get the bundle again from whoever made it"


def write(folder: Path, files: Mapping[str, bytes], key: keys.Key) -> tuple[Path, ...]:
    """Write the files and their signed manifest into a folder, and return their paths.

    Raises ValueError where the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: must be empty or not be there yet; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
    told = {
        "format": FORMAT,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "key": keys.public_hex(key),
    }
    signed = told | {"signature": keys.sign(key, canonical(told))}
    # Last: a folder without it is half written, and no bundle.
    write_atomic(folder / MANIFEST, _form(signed))
    return tuple(folder / name for name in (*files, MANIFEST))


def read(folder: Path, signed_by: str | None = None) -> dict[str, bytes]:
    """Return the files of a bundle by name, each as it was signed, and the manifest.

    The key that has signed it stands under "key", in hex.

    signed_by: the public key, 64 hex digits, that must have signed it; with None any key will do,
    which finds damage, and nothing that somebody has made anew. An empty text is refused: it is
    what is left of a variable that was not set.

    Raises ValueError where there is no bundle, or anything in it is not what was signed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give a folder that fedlite export has written, as a whole"
        )
    told = _manifest(path)
    form = _form(told)
    key, signature = told["key"], told.pop("signature")
    if signed_by is not None and key != signed_by.lower():
        asked = signed_by or "a key, and none is named"
        raise ValueError(
            f"{path}: must be signed by {asked} (rule: another's bundle answers as he likes), "
            f"is signed by {key}; {_MEND}"
        )
    if not keys.verify(key, signature, canonical(told)):
        raise ValueError(f"{path}: its signature is not that of its key; {_MEND}")
    # A blank more, or a digit in upper case, is signed as well, and has another SHA-256: a bundle
    # that was withdrawn, or in use before, would come back as another one.
    if path.read_bytes() != form or not _SIGNATURE.fullmatch(signature):
        raise ValueError(f"{path}: must be written as fedlite export writes it, is not; {_MEND}")
    there = {one.name for one in folder.iterdir()} - {MANIFEST}
    if more := there - told["files"].keys():
        raise ValueError(f"{folder / min(more)}: must not be there, nobody signed it; remove it")
    found, left = {}, _LARGEST
    for name, digest in told["files"].items():
        file = folder / name
        if not file.is_file() or file.is_symlink():
            raise ValueError(f"{file}: no such file, and the manifest names it; {_MEND}")
        left -= file.stat().st_size
        if left < 0:
            raise ValueError(f"{folder}: must be smaller than {_LARGEST:,} bytes; {_MEND}")
        found[name] = file.read_bytes()
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise ValueError(f"{file}: is not what was signed: changed, or cut off; {_MEND}")
    return found | {MANIFEST: form, "key": key.encode()}


def _form(signed: Mapping[str, Any]) -> bytes:
    """Return the one way in which a manifest is written."""
    return json.dumps(signed, indent=2, sort_keys=True).encode() + b"\n"


def signer(folder: Path) -> str:
    """Return the key in hex that a manifest names; "" where there is none. Nothing is checked."""
    path = folder / MANIFEST
    return str(_manifest(path)["key"]) if path.is_file() else ""


def _manifest(path: Path) -> dict[str, Any]:
    """Return what a manifest holds, of the right form; its signature is not looked at."""
    try:
        told = json.loads(path.read_text("utf-8")) if path.stat().st_size < 1 << 20 else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); {_MEND}") from None
    wanted = {"format": str, "files": dict, "key": str, "signature": str}
    if (
        not isinstance(told, dict)
        or told.keys() != wanted.keys()
        or not all(isinstance(told[name], kind) for name, kind in wanted.items())
        or not all(
            isinstance(digest, str) and name == Path(name).name and name not in ("", ".", "..")
            for name, digest in told["files"].items()
        )
    ):
        raise ValueError(f"{path}: must name format, files, key and signature; {_MEND}")
    if told["format"] != FORMAT:
        raise ValueError(
            f"{path}: must be of the format {FORMAT}, got {told['format']!r:.80}; use the release "
            "of fedlite that wrote it"
        )
    return told
