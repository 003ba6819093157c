"""Many files in one: a tar archive that every tar opens, and the same bytes for the same files.

Whoever hands one over to be unpacked is not trusted. Its first entry lists every file by name, size
and SHA-256, and every other byte of the archive follows from that list: what differs in one is
refused. So there are no links, no devices, no second entry of a name, nothing that unpacks to more
than was announced, and nothing after the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fedlite.identity.canonical import canonical

LIST = "MANIFEST.json"
MAX_FILES = 100_000
MAX_BYTES = 4 * 10**9
_MAX_LIST = 32_000_000
_KIND = "fedlite-archive-1"
_BLOCK = 512
_READ = 1 << 20
_END = bytes(2 * _BLOCK)


class ArchiveError(ValueError):
    """The archive breaks a rule; the text says which, and the mend."""


def pack(files: Mapping[str, bytes], about: Mapping[str, str]) -> bytes:
    """Return the archive of `files`, by their names below the folder that they belong to.

    about: what the list says of them all. Raises ArchiveError where `unpack` would.
    """
    listed = [
        [name, len(data), hashlib.sha256(data).hexdigest()] for name, data in sorted(files.items())
    ]
    manifest = canonical({"kind": _KIND, "about": dict(about), "files": listed})
    _checked(manifest)
    parts = [_entry(LIST, manifest), *(_entry(name, data) for name, data in sorted(files.items()))]
    return b"".join([*parts, _END])


def is_one(path: Path) -> bool:
    """Return whether the file begins as an archive of this kind does."""
    with path.open("rb") as file:
        return file.read(100) == LIST.encode().ljust(100, b"\0")


def unpack(source: Path, folder: Path, allowed: Callable[[str], bool]) -> dict[str, str]:
    """Put an archive's files into the empty `folder`, for their owner alone; return `about`.

    allowed: which names may be there. Every file is flushed. Raises ArchiveError when anything
    differs from what `pack` writes; what came before that is then in the folder, and of no use.
    """
    with source.open("rb") as file:
        about, listed = _checked(_manifest(file))
        for name, *_ in listed:
            if not allowed(name):
                raise ArchiveError(
                    f"{source}: holds {name[:200]!r}, which has no place here; take the file that "
                    "was written for this purpose"
                )
        for name, size, digest in listed:
            _expect(file, _header(name, size), name)
            _copy(file, folder / name, size, digest)
            _expect(file, bytes(-size % _BLOCK), name)
        _expect(file, _END, "the end")
        if file.read(1):
            raise ArchiveError(f"{source}: goes on behind its end; copy it again")
    return about


def _manifest(file: BinaryIO) -> bytes:
    """Return the bytes of the first entry."""
    first = file.read(_BLOCK)
    try:
        size = int(first[124:135], 8)
    except ValueError:
        size = -1
    if not 0 <= size <= _MAX_LIST or first != _header(LIST, size):
        raise ArchiveError(
            f"{file.name}: must begin with {LIST}, and does not; name the file that `fedlite site "
            "backup` wrote"
        )
    manifest = file.read(size)
    _expect(file, bytes(-size % _BLOCK), LIST)
    return manifest


def _checked(manifest: bytes) -> tuple[dict[str, str], list[tuple[str, int, str]]]:
    """Return what a list says, once all of it keeps the rules."""
    try:
        found = json.loads(manifest)
        if set(found) != {"kind", "about", "files"} or canonical(found) != manifest:
            raise ValueError("it is not in the one form that it has")
        kind, about, files = found["kind"], found["about"], found["files"]
        if kind != _KIND:
            raise ValueError(f"it is {kind!r:.40}, and this release reads {_KIND}")
        if not all(isinstance(value, str) for value in about.values()):
            raise ValueError("`about` must hold texts")
        listed = [_row(row) for row in files]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{LIST}: cannot be read: {error}; copy the file again") from None
    names = [name for name, *_ in listed]
    if names != sorted(set(names)) or LIST in names:
        raise ArchiveError(f"{LIST}: must name every file once, in order; copy the file again")
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    if both := folders & set(names):
        raise ArchiveError(f"{LIST}: {min(both)[:200]!r} is a file and a folder; copy it again")
    if len(listed) > MAX_FILES or sum(size for _, size, _ in listed) > MAX_BYTES:
        raise ArchiveError(
            f"{LIST}: at most {MAX_FILES:,} files of {MAX_BYTES:,} bytes together, got "
            f"{len(listed):,} of {sum(size for _, size, _ in listed):,}; keep fewer"
        )
    return about, listed


def _row(row: Any) -> tuple[str, int, str]:
    name, size, digest = row
    parts = name.split("/")
    if not all(p and p[0] != "." and p.isprintable() and "\\" not in p for p in parts):
        raise ValueError(f"{name[:200]!r} is no plain name below a folder")
    if len(name.encode()) > 1000 or max(len(part.encode()) for part in parts) > 255:
        raise ValueError(f"{name[:200]!r} is too long a name")
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise ValueError(f"{name[:200]!r}: {size!r:.40} is no size")
    if not isinstance(digest, str):
        raise ValueError(f"{name[:200]!r}: has no SHA-256")
    return name, size, digest


def _expect(file: BinaryIO, wanted: bytes, where: str) -> None:
    if file.read(len(wanted)) != wanted:
        raise ArchiveError(
            f"{file.name}: is not as it was written, at {where[:200]!r}; take another copy of it"
        )


def _copy(file: BinaryIO, target: Path, size: int, digest: str) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = hashlib.sha256()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        for block in _blocks(file, size):
            seen.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if seen.hexdigest() != digest:
        raise ArchiveError(f"{file.name}: {target.name} is damaged; take another copy of it")


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (block := file.read(min(size, _READ))):
        size -= len(block)
        yield block


def _entry(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


def _header(name: str, size: int) -> bytes:
    """Return the one head of a file (POSIX.1-2001, ustar, with a pax record for an odd name)."""
    told = name.encode()
    if name.isascii() and len(told) <= 100:
        return _block(told, size, b"0")
    record = b" path=" + told + b"\n"
    length = len(record) + 2
    while len(str(length)) + len(record) != length:
        length = len(str(length)) + len(record)
    record = str(length).encode() + record
    before = _block(b"././@PaxHeader", length, b"x") + record + bytes(-length % _BLOCK)
    return before + _block(hashlib.sha256(told).hexdigest().encode(), size, b"0")


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    """Return 512 bytes; nobody's, of no time, so that the same files are the same archive."""
    mode, nobody, never = b"0000600\0", b"0000000\0" * 2, b"00000000000\0"
    before = name.ljust(100, b"\0") + mode + nobody + b"%011o\0" % size + never
    after = kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    return before + b"%06o\0 " % (sum(before) + 8 * ord(" ") + sum(after)) + after
