"""How much approved code may keep on the site's disk: a disk that is full stops the ledger, too.

The kernel bounds a file (`fedlite.deployment.bounds`), not their number. So a thread looks at the
folder of the run while the worker is at work, and ends it.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_SECONDS = 0.25
# Enough for the ledger, the message in flight and the journal; see `inflight.check_room`.
_ROOM_BYTES = 64 << 20
_MOST_FILES = 1000


class Quota:
    """A context in which `folder` may hold `most` bytes; beyond, `end` is called, once.

    folder: written by approved code, so nothing in it is believed or followed.
    """

    def __init__(self, folder: Path, most: int, end: Callable[[], None]) -> None:
        """Look at nothing yet."""
        self._folder, self._most, self._end = folder, most, end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.exceeded = ""

    def __enter__(self) -> Quota:
        """Begin to look."""
        self._before = self._held()[0]
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
        """Remove what is in the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self.exceeded and not self._stop.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        if self.exceeded:
            return
        held, files = self._held()
        if held > self._most:
            self.exceeded = f"kept more than limits.state, {self._most} bytes, on the disk"
        elif files > _MOST_FILES:
            self.exceeded = f"kept more than {_MOST_FILES} files"
        elif (
            held - self._before > _ROOM_BYTES and shutil.disk_usage(self._folder).free < _ROOM_BYTES
        ):
            self.exceeded = f"left the disk less than {_ROOM_BYTES} bytes"
        if self.exceeded:
            self._end()

    def _held(self) -> tuple[int, int]:
        """Return the bytes that the folder takes on the disk, and the number of its entries."""
        held = files = 0
        waiting = [os.fspath(self._folder)]
        while waiting and files <= _MOST_FILES:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        files += 1
                        held += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        if files > _MOST_FILES:
                            break
            except OSError:  # it has gone meanwhile
                continue
        return held, files
