"""How a site hears of released bundles, and fetches one where its policy says so, a part at a time.

Between two messages of a run one part comes, so that a round never waits for a large bundle. What
has come is kept, so that a site that was stopped goes on. Nothing of it is loaded here.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from clients.runtime import setup
from clients.runtime.shelf import Busy, Shelf, check
from clients.runtime.trouble import Refused, RunOver, Unreachable
from fedlite.guard import policy as site_policy
from fedlite.inference import manifest
from fedlite.inference.announcement import MAX_BYTES, PART_BYTES, Announcement

log = logging.getLogger("fedlite.site")

# Between two questions, after something that is not mended at once, while somebody decides, and
# first where the coordinator is there and hands nothing out.
_SECONDS, _LATER, _SOON, _AGAIN = 60.0, 600.0, 5.0, 2.0
# Left on the disk for what runs write.
_ROOM_BYTES = 64 << 20

# Of a path, a body, and the most bytes of the answer.
Ask = Callable[[str, bytes, int], bytes]


class Fetching:
    """What a running site does about releases.

    home, seat: as of the runtime. note: writes the journal. say: told what an operator should see.
    """

    def __init__(
        self, home: Path, seat: Path, note: Callable[..., None], say: Callable[[str], None]
    ) -> None:
        """Ask nothing yet."""
        self._home, self._shelf = home, Shelf(seat)
        self._note, self._say = note, say
        self._due = 0.0
        self._going = False
        self._refused: set[str] = set()
        # Numbers of what came and was not what was announced: a liar may not fill the line with it.
        self._bad: set[int] = set()
        # Of what is here, by the SHA-256 of its manifest, whether it was found to be damaged.
        self._looked: dict[str, bool] = {}
        self._again = _AGAIN

    def step(self, ask: Ask) -> bool:
        """Ask what is released when it is time to, or for one part; return whether more follow.

        What is wrong with a release is said once, and disturbs no run. Raises Refused.
        """
        if not self._going and time.monotonic() < self._due:
            return False
        try:
            if not self._going:
                self._due = time.monotonic() + _SECONDS
                self._hear(ask("released", b"", MAX_BYTES))
            self._going = self._fetch(ask)
            self._again = _AGAIN
        except Busy:
            self._going, self._due = False, time.monotonic() + _SOON
        except Unreachable as error:
            # Messages come, or whoever asked for one would say so: this alone is to wait longer.
            log.debug("releases: %s", error)
            self._going, self._due = False, time.monotonic() + self._again
            self._again = min(2 * self._again, _LATER)
        except RunOver as error:
            # No such path: the coordinator's release of fedlite is older.
            self._wait(str(error))
        except Refused:
            raise
        except (ValueError, OSError) as error:
            self._refuse(str(error))
        return self._going

    def _hear(self, data: bytes) -> None:
        made = self._shelf.accept(data) if data else None
        if made is None:
            return
        self._note("released", bundle=made.sha256, name=made.name, bytes=made.size)
        wanted = site_policy.load(self._home / setup.POLICY).releases.fetch
        does = "it is fetched" if wanted else "[releases] fetch of site.toml is false, so it is not"
        self._say(
            f"the coordinator has released bundle {made.sha256[:12]}, {made.size:,} B; {does}"
        )

    def _fetch(self, ask: Ask) -> bool:
        """Fetch one part of what is announced and has not come; return whether there are more."""
        made = self._shelf.announced()
        wanted = site_policy.load(self._home / setup.POLICY).releases
        if made is None or not wanted.fetch or made.number in self._bad:
            return False
        damaged = self._damaged(made)
        if self._shelf.whole(made) and not damaged:
            return False
        if made.size > wanted.bytes:
            raise ValueError(
                f"releases.bytes: {wanted.bytes:,} is below the {made.size:,} bytes of release "
                f"{made.sha256[:12]}, which is not fetched; raise it in site.toml"
            )
        part = self._shelf.part(made.sha256)
        if not part.is_dir():
            with self._shelf.alone(wait=False):
                self._shelf.tidy()
            if not damaged:
                self._unused(made)
            part.mkdir(mode=0o700, parents=True)
        for path in part.iterdir():
            # What a process that was killed has left there.
            if path.name not in made.files:
                path.unlink()
        if (name := next(_lacking(part, made), None)) is None:
            self._arrived(part, made)
            return False
        self._room(part, made)
        self._take(ask, part / name, made)
        return True

    def _take(self, ask: Ask, path: Path, made: Announcement) -> None:
        begin = path.stat().st_size if path.exists() else 0
        told = json.dumps([made.sha256, path.name, begin]).encode()
        left = made.files[path.name].size - begin
        data = ask("released-part", told, PART_BYTES)
        if len(data) != min(left, PART_BYTES):
            # Another was released meanwhile, or what comes is not what was announced: of short
            # parts a large bundle would have any number.
            shutil.rmtree(path.parent)
            size = "no" if not data else "more" if len(data) > left else "fewer"
            raise ValueError(
                f"release {made.sha256[:12]}: {path.name} has {size} bytes where it was announced; "
                "it is begun anew later"
            )
        try:
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # What is half written would be taken for a part that came.
            shutil.rmtree(path.parent, ignore_errors=True)
            raise

    def _arrived(self, part: Path, made: Announcement) -> None:
        try:
            check(part, made)
        except ValueError:
            shutil.rmtree(part)
            self._bad.add(made.number)
            raise
        with self._shelf.alone(wait=False):
            if self._damaged(made):
                shutil.rmtree(self._shelf.path(made.sha256))
            os.replace(part, self._shelf.path(made.sha256))
            self._looked.pop(made.sha256, None)
            self._shelf.tidy(keep=made.sha256)
        self._note("fetched", bundle=made.sha256, name=made.name, bytes=made.size)
        self._say(
            f"bundle {made.sha256[:12]} has come; see it with `fedlite site released {self._home}`"
        )

    def _damaged(self, made: Announcement) -> bool:
        """Whether the bundle is here, in use perhaps, and is not what was signed; looked at once.

        One that is whole by its own manifest, and not what is announced, is another's.
        """
        folder = self._shelf.path(made.sha256)
        if not folder.is_dir():
            return False
        if made.sha256 not in self._looked:
            lost = not (_holds(check, folder, made) or _holds(manifest.read, folder))
            self._looked[made.sha256] = lost
            if lost:
                self._note("damaged", bundle=made.sha256)
                self._say(f"{folder}: is not what was signed any more; it is fetched again")
        return self._looked[made.sha256]

    def _unused(self, made: Announcement) -> None:
        """Raise ValueError where a bundle that is kept has another's place."""
        if self._shelf.path(made.sha256).exists():
            raise ValueError(
                f"release {made.sha256[:12]}: names other files than the bundle of this SHA-256 "
                f"that is in use, or was before, in {self._shelf.folder}; it is not fetched"
            )

    def _room(self, part: Path, made: Announcement) -> None:
        have = sum(path.stat().st_size for path in part.iterdir())
        need, free = made.size - have + _ROOM_BYTES, shutil.disk_usage(part).free
        if free < need:
            raise OSError(
                f"{part}: {free:,} bytes are free, {need:,} are needed for release "
                f"{made.sha256[:12]}; make room, it goes on then"
            )

    def _refuse(self, why: str) -> None:
        """Say what is wrong, once."""
        if why not in self._refused:
            self._refused.add(why)
            self._note("refuse", what="release", why=why[:500])
            self._say(why)
        self._wait(why)

    def _wait(self, why: str) -> None:
        log.debug("releases: %s", why)
        self._going, self._due = False, time.monotonic() + _LATER


def _holds(test: Callable[..., object], *given: object) -> bool:
    """Return whether a test of files passes."""
    try:
        test(*given)
    except (ValueError, OSError):
        return False
    return True


def _lacking(part: Path, made: Announcement) -> Iterator[str]:
    """Yield the names of files that have not come whole."""
    for name, told in made.files.items():
        path = part / name
        if not path.exists() and not told.size:
            path.touch()
        if not path.exists() or path.stat().st_size < told.size:
            yield name
