"""A coordinator and a site that has joined it, for tests of what one releases to the other."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from clients.runtime import setup as sites
from clients.runtime.fetching import Fetching
from clients.runtime.shelf import Shelf
from fedlite.commands.main import app
from fedlite.deployment import journal
from fedlite.deployment.invitation import Invitation
from fedlite.identity import keys
from fedlite.inference.announcement import Announcement, File
from server.coordinator import released
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init


class Place:
    """A coordinator, and a site that has joined it; `changed` is what a liar answers instead."""

    def __init__(self, root: Path) -> None:
        self.coordinator: Coordinator = init(root / "coordinator", "study", "h:1")
        self.key = keys.load(self.coordinator.witness_key)
        self.home = root / "home"
        sites.init(self.home, "north")
        invited = Invitation.decode(self.coordinator.invitation.read_bytes())
        sites.join(self.home, self.coordinator.invitation, fingerprint=invited.fingerprint)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.changed: dict[str, Callable[[bytes], bytes]] = {}
        self.shelf = Shelf(self.home)
        self.fetching = self.start()

    def start(self) -> Fetching:
        def note(action: str, **facts: Any) -> None:
            # As the runtime does.
            with contextlib.suppress(OSError):
                journal.Journal(self.home / "audit").write(action, **facts)

        return Fetching(self.home, self.home, note, self.said.append)

    def allow(self, **values: object) -> None:
        path = self.home / "site.toml"
        text = path.read_text().replace("fetch = false", "fetch = true")
        for name, value in values.items():
            text = text.replace("bytes = 200000000", f"{name} = {value}")
        path.write_text(text)

    def ask(self, path: str, body: bytes, limit: int) -> bytes:
        self.asked.append(path)
        said = released.answer(self.coordinator.releases, path, body)
        said = self.changed.get(path, lambda same: same)(said)
        assert len(said) <= limit
        return said

    def run(self) -> None:
        """Let the site do all that it does about releases, as if its time had come."""
        self.fetching._due = 0.0
        for _ in range(100):
            if not self.fetching.step(self.ask):
                return
        raise AssertionError("it never ends")

    def journal(self) -> list[str]:
        return [row["action"] for row in journal.read(self.home / "audit")][2:]

    def announce(self, folder: Path, number: int, **files: bytes) -> Announcement:
        """Release a folder that need be no bundle, as whoever has the coordinator's key could."""
        given = {path.name: path.read_bytes() for path in folder.iterdir()} | {
            name.replace("_", "."): content for name, content in files.items()
        }
        named = {name: File(len(c), hashlib.sha256(c).hexdigest()) for name, c in given.items()}
        made = Announcement(number, "model", "", named)
        target = self.coordinator.releases / made.sha256
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, content in given.items():
            (target / name).write_bytes(content)
        (self.coordinator.releases / released.ANNOUNCED).write_bytes(made.encode(self.key))
        return made


def site(place: Place, *words: str, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, ["site", "released", str(place.home), *words], input=answer)
    return done.exit_code, done.output
