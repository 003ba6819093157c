"""The message that a site is answering: on disk until its reply has arrived.

The coordinator gives a message out once. A site that is killed finds here what it still owes: the
reply that was ready, or the message that it took.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from flwr.app import Message

from fedlite import flower
from fedlite.storage import write_atomic

# Below it nothing is trained: a ledger whose write failed refuses everything until a person acts.
_ROOM_BYTES = 16 << 20


class InFlight:
    """One message and its reply, in the folder of a site, `home`.

    own: whether this process took a message, so that what lies there is not of one that was killed.
    """

    def __init__(self, home: Path) -> None:
        """Look at nothing yet."""
        self.own = False
        self._home = home
        self._message, self._reply = (home / "inflight" / name for name in ("message", "reply"))

    def take(self, message: Message) -> None:
        """Keep a message before it is confirmed; raises OSError when it cannot be kept."""
        _write(self._message, message)
        self.own = True

    def ready(self, reply: Message) -> None:
        """Keep the reply before it is sent; raises OSError when it cannot be kept."""
        _write(self._reply, reply)

    def message(self) -> Message | None:
        """Return the message that was taken, if there is one."""
        return _read(self._message)

    def reply(self) -> Message | None:
        """Return the reply that was ready, if there is one."""
        return _read(self._reply)

    def forget(self) -> None:
        """Remove both: the reply has arrived, or nobody waits for it."""
        self._reply.unlink(missing_ok=True)
        self._message.unlink(missing_ok=True)

    def came(self) -> float | None:
        """Return when the message was taken, in seconds since 1970; None when none was."""
        try:
            return self._message.stat().st_mtime
        except FileNotFoundError:
            return None


def check_room(folder: Path) -> None:
    """Raise OSError when the disk has too little room for what a training writes."""
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        text = f"{free:,} bytes are free, {_ROOM_BYTES:,} are needed"
        raise OSError(errno.ENOSPC, text, str(folder))


def _write(path: Path, message: Message) -> None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    write_atomic(path, flower.to_bytes(message))


def _read(path: Path) -> Message | None:
    try:
        return flower.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
