"""What a coordinator says of a bundle that it has released: which files, signed with its own key.

The key is that of the coordinator's invitation, so whoever has joined it knows it. The signature
covers the SHA-256 and the size of every file before one of them is asked for. Numbers only rise: a
release that was seen can be followed by a newer one alone, whatever a server repeats.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.inference.manifest import MANIFEST

FORMAT = "fedlite-release-1"
# Of an announcement, of its note, and of the files that it may name.
MAX_BYTES, NOTE, MOST_FILES = 65_536, 500, 32
# What a site asks for at a time.
PART_BYTES = 1 << 20
_LARGEST = 1 << 40
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset(("format", "number", "name", "note", "files", "signature"))


@dataclass(frozen=True)
class File:
    """A file of a bundle. size: bytes; sha256: hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Announcement:
    """A release. number: seconds since 1970 when it was made, or one more than the last.

    name: what the model is called. note: what the coordinator's operator says of it. files: by
    name, the manifest among them. Raises ValueError for anything that no coordinator announces.
    """

    number: int
    name: str
    note: str
    files: Mapping[str, File]

    def __post_init__(self) -> None:
        """Check everything."""
        if type(self.number) is not int or not 0 < self.number < 1 << 40:
            raise ValueError(f"number: must be from 1 to 2^40, got {self.number!r:.40}")
        for field, text, most in (("name", self.name, 64), ("note", self.note, NOTE)):
            if not isinstance(text, str) or len(text) > most or not text.isprintable():
                raise ValueError(
                    f"{field}: must be one printable line of at most {most} characters, got "
                    f"{text!r:.80}"
                )
        if not 0 < len(self.files) <= MOST_FILES or MANIFEST not in self.files:
            raise ValueError(
                f"files: must be 1 to {MOST_FILES}, {MANIFEST} among them, got {len(self.files)}"
            )
        for name, file in self.files.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"files: must have plain names without folders, got {name!r:.80}")
            if type(file.size) is not int or not 0 <= file.size <= _LARGEST:
                raise ValueError(
                    f"{name}: size must be from 0 to {_LARGEST}, got {file.size!r:.40}"
                )
            if not isinstance(file.sha256, str) or not DIGEST.fullmatch(file.sha256):
                raise ValueError(f"{name}: sha256 must be 64 lower-case hex digits")

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, which names all other files: what the release is."""
        return self.files[MANIFEST].sha256

    @property
    def size(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files.values())

    def encode(self, key: keys.Key) -> bytes:
        """Return it signed."""
        told = {
            "format": FORMAT,
            "number": self.number,
            "name": self.name,
            "note": self.note,
            "files": {name: [one.size, one.sha256] for name, one in self.files.items()},
        }
        return canonical(told | {"signature": keys.sign(key, canonical(told))})

    @classmethod
    def decode(cls, data: bytes, public: str) -> Announcement:
        """Read what the holder of a key, 64 hex digits, has announced; raises ValueError.

        Nothing that it says is looked at before its signature.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"release: must have at most {MAX_BYTES} bytes, got {len(data)}")
        try:
            told = json.loads(data)
            if not isinstance(told, dict) or told.keys() != _FIELDS:
                raise ValueError("other fields")
            signature = told.pop("signature")
            signed = canonical(told)
        except (ValueError, RecursionError, TypeError) as error:
            raise ValueError(
                f"release: is none that a coordinator writes ({error!s:.80})"
            ) from None
        if not isinstance(signature, str) or not keys.verify(public, signature, signed):
            raise ValueError(
                f"release: must be signed by {public} (rule: the key of the coordinator's "
                "invitation), is not"
            )
        if told["format"] != FORMAT:
            raise ValueError(f"release: must be of the format {FORMAT}, got {told['format']!r:.80}")
        return cls(told["number"], told["name"], told["note"], _files(told["files"]))


def _files(told: Any) -> dict[str, File]:
    if not isinstance(told, dict) or not all(
        isinstance(one, list) and len(one) == 2 for one in told.values()
    ):
        raise ValueError("files: must have size and sha256 by name")
    return {name: File(*one) for name, one in told.items()}


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes, hex."""
    return hashlib.sha256(content).hexdigest()
