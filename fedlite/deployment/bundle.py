"""The bundle: the app that a run brings along, one zip archive (Flower's FAB).

Whoever sends it is not trusted: `read` looks at every entry before it believes any, runs and
imports nothing of it, and keeps sizes below fixed bounds. The SHA-256 of its bytes is what a site
approves; it covers the code and, in `[tool.flwr.app.config]` of its pyproject, all settings.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import struct
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fedlite.deployment import own
from fedlite.settings import Value

# A site keeps some of those that it refused, too.
MAX_BYTES = 4_000_000
MAX_FILES = 500
MAX_UNPACKED = 50_000_000
MAX_FILE = 5_000_000
CONFIG = "pyproject.toml"
MANIFEST = ".info/CONTENT"
COMPONENTS = {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
# All that zipfile raises on an archive that is none; a field may send it anywhere.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_SUFFIXES = (".py", ".toml", ".md", ".txt", ".json")
# One spelling a name: what a file system may fold, escape or read as a path is refused.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


class BundleError(ValueError):
    """The bundle breaks a rule; nothing of it was kept or run."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that keeps the rules.

    sha256: of `content`, the archive as it came. files: SHA-256 of each file by its name, the
    manifest left out. settings: every dotted setting. name: `federation.name`, or "".
    """

    sha256: str
    files: Mapping[str, str]
    settings: Mapping[str, Value]
    content: bytes = field(repr=False)

    @property
    def own(self) -> dict[str, str]:
        """SHA-256 of each of the user's own files by its name (`fedlite.deployment.own`)."""
        return {name: self.files[name] for name in own.own_files(self.files)}

    @property
    def name(self) -> str:
        """What the federation calls itself."""
        return str(self.settings.get("federation.name", ""))


def read(given: Path | bytes) -> Bundle:
    """Check a bundle whole and return it; nothing is written or run.

    Raises BundleError, naming the entry, the rule, the value and the mend.
    """
    content = _bytes(given)
    entries = dict(_entries(content))
    if CONFIG not in entries:
        raise _wrong(CONFIG, "must be in it, got none", "build it with fedlite server submit")
    files = {n: hashlib.sha256(c).hexdigest() for n, c in entries.items() if n != MANIFEST}
    _check_manifest(entries.get(MANIFEST), entries)
    settings = _settings(entries[CONFIG])
    for name, rule in own.check(entries, settings).items():
        raise BundleError(f"bundle: {name[:200]!r}: {rule}")
    return Bundle(digest(content), files, settings, content)


def digest(content: bytes) -> str:
    """Return what names a bundle, also one that `read` refuses: SHA-256 of its bytes, hex."""
    return hashlib.sha256(content).hexdigest()


def contents(bundle: Bundle) -> dict[str, bytes]:
    """Return the bytes of each file by its name, the manifest left out."""
    return {name: data for name, data in _entries(bundle.content) if name != MANIFEST}


def unpack(bundle: Bundle, directory: Path) -> Path:
    """Put the bundle's files into `directory`, read-only, whole or not at all; returns it.

    A directory that is there already is used when it holds exactly these files, byte for byte.

    Raises ValueError when it holds anything else, OSError when it cannot be written.
    """
    if directory.is_symlink() or directory.exists():
        verify(bundle, directory)
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name[:16]}-"))
    try:
        for name, data in _entries(bundle.content):
            if name == MANIFEST:
                continue
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            target.chmod(0o444)
        folders = [path for path in temporary.rglob("*") if path.is_dir()]
        for folder in [*folders, temporary]:
            _sync(folder)
        for folder in folders:
            folder.chmod(0o555)
        try:
            # A folder that came into being meanwhile is not replaced, as it is not empty.
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
        else:
            directory.chmod(0o555)
            _sync(directory.parent)
    finally:
        remove(temporary)
    verify(bundle, directory)
    return directory


def verify(bundle: Bundle, directory: Path) -> None:
    """Check that `directory` holds the bundle's files, byte for byte, and nothing else.

    Raises ValueError naming what differs.
    """
    mend = "remove the folder, and it is unpacked anew"
    if directory.is_symlink() or not directory.is_dir():
        raise ValueError(f"{directory}: must be a folder, got something else; {mend}")
    folders = {p.as_posix() for n in bundle.files for p in PurePosixPath(n).parents} - {"."}
    missing = set(bundle.files)
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind) and name in folders:
            continue
        if not stat.S_ISREG(kind) or name not in missing:
            raise ValueError(f"{path}: must not be there, as the bundle has no such file; {mend}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != bundle.files[name]:
            raise ValueError(f"{path}: differs from the bundle's file; {mend}")
        missing.discard(name)
    if missing:
        raise ValueError(f"{directory}: lacks {', '.join(sorted(missing)[:5])}; {mend}")


def remove(directory: Path) -> None:
    """Remove an unpacked bundle, if it is there; its folders are read-only, so rmtree alone fails.

    Raises OSError when a file cannot be removed.
    """
    if directory.is_symlink() or not directory.exists():
        return
    for folder in [directory, *(p for p in directory.rglob("*") if p.is_dir())]:
        if not folder.is_symlink():
            folder.chmod(0o700)
    shutil.rmtree(directory)


def _bytes(given: Path | bytes) -> bytes:
    if isinstance(given, bytes):
        content = given
    else:
        try:
            with given.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise BundleError(f"{given}: no such file; check the path") from None
    if len(content) > MAX_BYTES:
        raise _wrong("size", f"must be at most {MAX_BYTES} bytes, got more", "send less beside it")
    return content


def _entries(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file, each checked first."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            _check_entries(infos)
            for info in infos:
                with archive.open(info) as file:
                    # The archive's own word on a size is not taken for it.
                    data = file.read(MAX_FILE + 1)
                if len(data) != info.file_size:
                    raise _wrong(info.filename, "must have the size it says", "build it again")
                yield info.filename, data
    except BundleError:
        raise
    except UnicodeDecodeError:
        raise _wrong("names", "must be UTF-8", "build it again") from None
    except _DAMAGE as error:
        raise BundleError(f"bundle: must be a zip archive, got {error}; send it again") from None


def _check_entries(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_FILES:
        raise _wrong("files", f"must be at most {MAX_FILES}, got {len(infos)}", "send fewer")
    if sum(info.file_size for info in infos) > MAX_UNPACKED:
        raise _wrong("files", f"must unpack to at most {MAX_UNPACKED} bytes", "send less")
    seen: set[str] = set()
    folders: set[str] = set()
    for info in infos:
        name = info.filename
        # zipfile cuts a name at a NUL and turns backslashes on some systems; the raw one counts.
        if name != info.orig_filename or (name != MANIFEST and not _NAME.fullmatch(name)):
            raise _wrong(
                info.orig_filename,
                "must be named by plain letters, digits and . _ + -, below the bundle's folder, no "
                "part beginning with a dot or an empty one",
                "rename it",
            )
        if len(name) > 200:
            raise _wrong(name, f"must have at most 200 characters, got {len(name)}", "rename it")
        if name != MANIFEST and not name.endswith(_SUFFIXES) and name != "LICENSE":
            raise _wrong(name, f"must end in one of {', '.join(_SUFFIXES)}", "leave it out")
        mode = info.external_attr >> 16
        if info.is_dir() or (stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
            raise _wrong(name, "must be a regular file, no link and no folder", "leave it out")
        if info.flag_bits & 0x41:
            raise _wrong(name, "must not be encrypted", "build it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _wrong(name, "must be stored or deflated", "build it with flwr build")
        if info.file_size > MAX_FILE:
            raise _wrong(name, f"must be at most {MAX_FILE} bytes, got {info.file_size}", "shorten")
        # Not every file system tells upper case from lower.
        folded = name.lower()
        if folded in seen:
            raise _wrong(name, "must be there once, got it twice", "build it again")
        seen.add(folded)
        folders |= {parent.as_posix() for parent in PurePosixPath(folded).parents}
    if seen & folders:
        raise _wrong(min(seen & folders), "must be a file or a folder, got both", "build it again")


def _check_manifest(manifest: bytes | None, entries: Mapping[str, bytes]) -> None:
    """Check Flower's own list of `name,sha256,bits`, where there is one."""
    if manifest is None:
        return
    told = sorted(manifest.decode("utf-8", "replace").splitlines())
    true = sorted(
        f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}"
        for name, data in entries.items()
        if name != MANIFEST
    )
    if told != true:
        raise _wrong(MANIFEST, "must list exactly the files that are there", "build it again")


def _settings(content: bytes) -> dict[str, Value]:
    try:
        project = tomllib.loads(content.decode("utf-8"))
        flower = project["tool"]["flwr"]["app"]
        components, config = dict(flower["components"]), flower.get("config", {})
        if not isinstance(config, dict):
            raise TypeError("config is no table")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _wrong(
            CONFIG, f"must hold [tool.flwr.app.components], got {error!r}", "build it again"
        ) from None
    if components != COMPONENTS:
        expected = " and ".join(f"{k} = {v}" for k, v in COMPONENTS.items())
        raise _wrong(CONFIG, f"components must be {expected}, got {components}", "mend them")
    settings: dict[str, Value] = {}
    for key, value in _flat(config):
        if key in settings or type(value) not in (str, int, float, bool):
            raise _wrong(CONFIG, f"{key!r} must be one plain value, got {value!r}", "mend it")
        settings[key] = value
    return settings


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _wrong(what: str, rule: str, mend: str) -> BundleError:
    return BundleError(f"bundle: {what[:200]!r}: {rule}; {mend}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
