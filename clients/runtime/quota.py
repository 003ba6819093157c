"""How much approved code may keep on the site's disk: a disk that is full stops the ledger, too.

The kernel bounds a file (`fedlite.deployment.bounds`), not their number. So a thread looks at the
folder of the run while the worker is at work, and ends it. At other times the worker is stopped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_SECONDS = 0.05
# Enough for the ledger, the message in flight and the journal; see `inflight.check_room`.
_ROOM_BYTES = 64 << 20
_MOST_FILES = 1000


class Quota:
    """A context in which `folder` may hold `most` bytes; beyond, `process` is killed.

    folder: written by approved code, so nothing in it is believed or followed, and what cannot be
    looked into is too much. What `process` has open counts when it has no name any more.
    """

    def __init__(self, folder: Path, most: int, process: subprocess.Popen[bytes]) -> None:
        """Look at nothing yet."""
        self._folder, self._most, self._process = folder, most, process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.exceeded = ""

    def __enter__(self) -> Quota:
        """Begin to look."""
        self._free = self._room()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look once more, and no longer."""
        self._stop.set()
        self._thread.join()
        self._look()

    def clear(self) -> None:
        """Remove the folder and what is in it, whatever the depth and the modes."""
        waiting = [] if self._folder.is_symlink() else [self._folder]
        with suppress(OSError):
            while waiting:
                folder = waiting[-1]
                folder.chmod(0o700)
                # Files first: they take the room.
                for entry in list(os.scandir(folder)):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                inner = [entry.path for entry in os.scandir(folder)]
                if not inner:
                    os.rmdir(waiting.pop())
                for path in inner:
                    os.chmod(path, 0o700)
                    # Moved up before it is looked into: so no name gets long.
                    waiting.append(self._folder / secrets.token_hex(16))
                    os.rename(path, waiting[-1])

    def _watch(self) -> None:
        while not self.exceeded and not self._stop.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        if self.exceeded:
            return
        try:
            held, files = self._held()
        except OSError as error:
            self.exceeded = f"kept what the site cannot look into ({error.strerror})"
        else:
            if held > self._most:
                self.exceeded = f"kept more than limits.state, {self._most} bytes, on the disk"
            elif files > _MOST_FILES:
                self.exceeded = f"kept more than {_MOST_FILES} files"
            elif (free := self._room()) < _ROOM_BYTES and self._free - free > _ROOM_BYTES:
                self.exceeded = f"left the disk less than {_ROOM_BYTES} bytes"
        if self.exceeded:
            self._process.kill()

    def _room(self) -> int:
        return shutil.disk_usage(self._folder.parent).free

    def _held(self) -> tuple[int, int]:
        """Return the bytes that approved code takes on the disk, and the number of its entries.

        Raises OSError where a folder is closed, or deeper than a name may be long.
        """
        held = files = 0
        waiting = [os.fspath(self._folder)]
        while waiting and files <= _MOST_FILES:
            # What has gone meanwhile is no more.
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as all:
                for entry in all:
                    files += 1
                    held += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if files > _MOST_FILES:
                        break
        return held + sum(self._nameless()), files

    def _nameless(self) -> Iterator[int]:
        """Yield the bytes of each file that is open and was removed."""
        seen = set()
        with suppress(OSError), os.scandir(f"/proc/{self._process.pid}/fd") as opened:
            for entry in opened:
                with suppress(OSError):
                    found = entry.stat()
                    if found.st_nlink == 0 and found.st_ino not in seen:
                        seen.add(found.st_ino)
                        yield found.st_blocks * 512
