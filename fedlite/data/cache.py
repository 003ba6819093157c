"""The folder of fetched files: where it is, how a file enters it whole, how it is verified.

A file is only ever read after its SHA-256 agreed with the pin in the source code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the cache folder, which need not exist yet.

    `$FEDLITE_CACHE`, else `$XDG_CACHE_HOME/fedlite`, else `~/.cache/fedlite`.
    """
    own = os.environ.get("FEDLITE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "fedlite"


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def verify(data: bytes, pin: str, *, name: str, path: Path) -> bytes:
    """Return `data`, read from `path` for the source `name`, if its SHA-256 is `pin`.

    Raises ValueError naming the file, both digests and the mend.
    """
    found = sha256(data)
    if found != pin:
        raise ValueError(
            f"{path}: the sha256 must be {pin}, got {found}; the file is corrupt or another "
            f"version: delete it and run `fedlite data fetch {name}`"
        )
    return data


def read_cached(path: Path, *, name: str) -> bytes:
    """Return the bytes of `path`, which belongs to the source `name`.

    Raises ValueError with the mend when the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {name} needs this file, and it cannot be read "
            f"({error.strerror or error}); run `fedlite data fetch {name}`"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create `folder` and hold its lock, so that two fetches do not write one `.part` file."""
    # Hardly any process fetches, and this takes 0.1 s to import.
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    # A soft lock, which it would take on a disk without locks, outlives a process that is killed.
    with FileLock(folder / ".lock", fallback_to_soft=False):
        yield


def download(url: str, part: Path, *, limit: int, timeout: float = 30.0) -> bytes:
    """Return the content of `url`, going on from the bytes that `part` already holds.

    What arrives is flushed to `part` as it comes, so an interrupted call resumes with an HTTP
    Range request; a server that ignores the range is read from the start. `part` is left for the
    caller to delete once its content has been verified or found wrong. `limit` bounds the size in
    bytes, `timeout` each network wait in seconds.

    Raises ValueError beyond `limit` (and deletes `part`), OSError when the network or disk fails.
    """
    # Importing these takes 0.1 s, and hardly any process downloads.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    have = part.stat().st_size if part.exists() else 0
    # The addresses are constants of the catalogue, never input.
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        with urlopen(request, timeout=timeout) as response:  # noqa: S310
            resumed = response.status == 206
            announced = response.headers.get("Content-Length")
            with part.open("ab" if resumed else "wb") as file:
                start = file.tell()
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    if file.tell() > limit:
                        part.unlink()
                        raise ValueError(f"{url}: must be at most {limit} bytes, sends more")
                file.flush()
                os.fsync(file.fileno())
                got = file.tell() - start
        if announced is not None and got != int(announced):
            raise ConnectionError(f"{url}: connection closed after {got} of {announced} bytes")
    except HTTPException as error:
        raise ConnectionError(f"{url}: {error!r}") from error
    except HTTPError as error:
        # 416: the part is already as long as the file, or longer; the caller's pin decides.
        if error.code != 416:
            raise
    return part.read_bytes()
