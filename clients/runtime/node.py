"""The site's one supervised process: it takes messages, lets only approved code see them, answers.

Nothing of a bundle is imported here. What a worker returns is read, measured and packed anew: a
reply holds one blob or one code and nothing else. A message that was taken is on disk until its
reply has arrived, so a site that is killed at any moment answers it when it is back: with the reply
that was ready, or by saying that there is none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType

from clients import policy as site_policy
from clients.policy import SitePolicy
from clients.runtime import gate, setup
from clients.runtime.fleet import (
    LOCK,
    Incoming,
    Refused,
    RunOver,
    TooLarge,
    Unreachable,
    connection,
)
from clients.runtime.pace import Pace
from clients.runtime.warm import Worker
from fedlite import flower
from fedlite.data import cache_folder
from fedlite.deployment import bundle as bundles
from fedlite.deployment.journal import Journal
from fedlite.deployment.worker import Task
from fedlite.messages import Code
from fedlite.storage import write_atomic

log = logging.getLogger("fedlite.site")

_LONGEST_WAIT = 30.0
# A site that was killed is let in again as soon as the coordinator has forgotten it.
_REFUSED_WAIT = 2.0
_KEPT_WAITING = 5
_KEPT_ROUNDS = 20
# Below it nothing is trained: a ledger whose write failed refuses everything until a person acts.
_ROOM_BYTES = 16 << 20
# A bundle or an answer in a file: what it is for, then its bytes.
_MESSAGE, _REPLY = "message", "reply"


@dataclass(frozen=True)
class _Approved:
    """A run whose bundle this site has approved, ready to be given to a worker."""

    bundle: bundles.Bundle
    run_config: dict[str, Any]


class Runtime:
    """A site at work. `home` is the folder that `fedlite site init` made.

    Raises ValueError or OSError, with the mend, when the folder is not that of a site that has
    joined a coordinator, and BlockingIOError when another process works from it already.
    """

    def __init__(self, home: Path, say: Callable[[str], None] = log.info) -> None:
        """Read what the site is; start a worker, which loads torch meanwhile."""
        self.home = home.absolute()
        self._say = say
        self._lock = _only_one(self.home)
        self.address = setup.joined(self.home).address
        self._policy = self._read_policy()
        self._journal = Journal(self.home / "audit")
        self._fleet = connection(self.home)
        self._runs: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self._spare: Worker | None = self._new_worker()
        self._worker: Worker | None = None
        self._stamp: tuple[int, int] = self._policy_stamp()
        self._rounds: deque[dict[str, Any]] = deque(maxlen=_KEPT_ROUNDS)
        self._bytes = [0, 0]
        self._state, self._since = "starting", _now()
        # Whether the message in flight was taken by this process, not by one that was killed.
        self._own = False

    # Life --------------------------------------------------------------------------------------

    def serve(self, stop: threading.Event, patience: float = 60.0) -> None:
        """Work until `stop` is set.

        patience: seconds for which a refusal is taken as passing: a site that was killed is on
        line for the coordinator a while longer, and refused until it is not. Raises Refused.
        """
        try:
            while not stop.is_set():
                try:
                    self._connect(stop, patience)
                    self._work(stop)
                except Unreachable as error:
                    self._tell("unreachable", str(error))
                except Refused as error:
                    if self._state == "refused":
                        raise
                    # It may be the old key's: connecting tries the next one, and gives up in time.
                    self._tell("refused", f"{error}; trying again")
                    stop.wait(_REFUSED_WAIT)
        finally:
            self._tell("stopped", "")
            self.close()

    def close(self) -> None:
        """End the workers and leave the coordinator."""
        for worker in (self._worker, self._spare):
            if worker is not None:
                worker.close()
        self._fleet.close()
        self._lock.close()

    def _connect(self, stop: threading.Event, patience: float) -> None:
        """Activate, waiting longer each time that it fails."""
        wait, until = 1.0, time.monotonic() + patience
        while not stop.is_set():
            try:
                number = self._fleet.activate()
                self._tell("connected", f"connected to {self.address} as node {number}")
                return
            except Unreachable as error:
                self._tell("unreachable", f"{error}; trying again")
            except Refused as error:
                if self._next_key_accepted():
                    continue
                if time.monotonic() > until:
                    self._tell("refused", "")
                    self._note("refused", why=str(error))
                    raise
                self._tell("refused", f"{error}; trying again")
                wait = min(wait, _REFUSED_WAIT)
            # Sites that lost the same coordinator should not all come back in the same second.
            stop.wait(wait * random.uniform(0.7, 1.3))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT)

    def _next_key_accepted(self) -> bool:
        """Go over to the next node key once the coordinator takes it; never before."""
        if not (self.home / setup.NEXT).exists():
            return False
        fleet = connection(self.home, setup.NEXT)
        try:
            fleet.activate()
        except (Refused, Unreachable):
            return False
        finally:
            fleet.close()
        setup.finish_rotation(self.home)
        self._fleet.close()
        self._fleet = connection(self.home)
        self._tell("starting", "the coordinator has taken the new node key")
        return True

    def _work(self, stop: threading.Event) -> None:
        """Take messages and answer them; only `stop` and a lasting refusal end it."""
        lost, pace = 0.0, Pace()
        # The coordinator gives a message out once: one that is not on disk yet must not be dropped.
        held: Incoming | None = None
        while not stop.is_set():
            try:
                if self._finish_interrupted():
                    held = None
                asked = time.monotonic()
                held = held or self._fleet.receive()
                if lost:
                    self._tell("connected", "connected again")
                lost = 0.0
                if held is None:
                    stop.wait(pace.pause(time.monotonic() - asked))
                else:
                    self._handle(held)
                    pace.answered(held.run)
                    held = None
            except Unreachable as error:
                lost = min(2 * lost or 0.5, _LONGEST_WAIT)
                self._tell("unreachable", f"{error}; trying again")
                stop.wait(lost * random.uniform(0.7, 1.3))  # noqa: S311
            except Refused:
                raise
            except Exception:
                # Whatever one message did to it, the site must be there for the next.
                log.exception("a message could not be answered; it is given up")
                self._forget()
                held = None
                stop.wait(1.0)

    # One message -------------------------------------------------------------------------------

    def _handle(self, incoming: Incoming) -> None:
        """Answer one message; what goes wrong leaves as a code."""
        flower.identify(incoming.run, self._fleet.node_id)
        try:
            approved = self._approve(incoming)
            if isinstance(approved, Code):
                self._fleet.push(flower.decline(approved, incoming.stub), 0.0)
                return
            message = self._fleet.content(incoming, self._policy.limits.down)
            # On disk before the coordinator forgets it: nobody would ever send it again.
            self._keep(_MESSAGE, message)
            self._own = True
            self._fleet.confirm(incoming)
        except TooLarge as error:
            self._say(str(error))
            self._note("refuse", why=str(error))
            self._fleet.push(flower.decline(Code.POLICY, incoming.stub), 0.0)
            return
        except RunOver as error:
            log.info("%s", error)
            return
        except (Unreachable, Refused):
            raise
        except OSError as error:
            # Without its message on disk a round that is interrupted could not be answered.
            self._say(f"no room to keep a message ({error}); free some space")
            self._fleet.push(flower.decline(Code.FAILED, incoming.stub), 0.0)
            return
        except ValueError as error:
            self._say(f"declined: {error}")
            self._fleet.push(flower.decline(Code.DATA, incoming.stub), 0.0)
            return
        self._answer(message, approved)

    def _answer(self, message: Message, approved: _Approved) -> None:
        started = time.monotonic()
        reply, outcome = self._ask(message, approved)
        try:
            self._keep(_REPLY, reply)
        except OSError as error:
            log.error("the reply could not be kept, only sent: %s", error)
        seconds = time.monotonic() - started
        up, down = len(flower.to_bytes(reply)), len(flower.to_bytes(message))
        self._count(message, approved, seconds, up, down, outcome)
        self._deliver(reply, seconds)

    def _deliver(self, reply: Message, seconds: float) -> None:
        try:
            self._fleet.push(reply, seconds)
        except RunOver as error:
            log.info("a reply came too late: %s", error)
        self._forget()

    def _ask(self, message: Message, approved: _Approved) -> tuple[Message, str]:
        """Let the worker answer; pack what it says anew. Returns the reply and a word for it."""
        limits = self._policy.limits
        try:
            if message.metadata.message_type == MessageType.TRAIN:
                self._check_room()
            worker = self._worker_for(message, approved)
            answer = flower.from_bytes(worker.ask(flower.to_bytes(message), limits.seconds))
            code = flower.code_of(answer)
            if code is not None:
                return flower.decline(code, message), code.value
            blob = flower.unwrap(answer)
        except Exception as error:
            # The bytes are those of approved code: Flower's decoders raise what they like.
            log.error("%s", error)
            return flower.decline(Code.FAILED, message), Code.FAILED.value
        if len(blob) > limits.up:
            self._note("refuse", why=f"limits.up: {len(blob)} bytes were to leave")
            return flower.decline(Code.POLICY, message), Code.POLICY.value
        return flower.answer(blob, message), "sent"

    # What may run ------------------------------------------------------------------------------

    def _approve(self, incoming: Incoming) -> _Approved | Code:
        """Compare bundle and settings with what the operator approved; import nothing of them."""
        self._policy = self._read_policy()
        if incoming.run not in self._runs:
            claimed, given = self._fleet.run_config(incoming.run)
            self._runs = {incoming.run: (self._fleet.bundle(claimed, incoming.run), given)}
        content, given = self._runs[incoming.run]
        try:
            gate.check(self._policy, content, given)
            bundle = bundles.read(content)
        except gate.NotApproved as error:
            self._refuse(content, str(error))
            return Code.UNAPPROVED
        except ValueError as error:
            self._note("refuse", why=str(error))
            return Code.UNAPPROVED
        return _Approved(bundle, {**bundle.settings, **given})

    def _refuse(self, content: bytes, why: str) -> None:
        """Keep a refused bundle for the operator, once."""
        digest = bundles.digest(content)
        folder = self.home / "bundles" / "waiting"
        path = folder / f"{digest}.fab"
        if path.exists():
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, content)
        for old in sorted(folder.glob("*.fab"), key=os.path.getmtime)[:-_KEPT_WAITING]:
            old.unlink()
        self._note("refuse", bundle=digest, why=why)
        self._say(
            f"refused bundle {digest[:12]}: {why}; see it with `fedlite site approve {self.home}`"
        )

    # Workers -----------------------------------------------------------------------------------

    def _worker_for(self, message: Message, approved: _Approved) -> Worker:
        """Return the worker of this bundle and run; a changed policy means a fresh one."""
        task = self._task(message, approved)
        stamp = self._policy_stamp()
        worker = self._worker
        if worker is not None and worker.alive and worker.task == task and stamp == self._stamp:
            return worker
        if worker is not None:
            worker.close()
        self._worker = None
        bundles.unpack(approved.bundle, Path(task.folder))
        worker = self._spare if self._spare is not None and self._spare.alive else None
        if worker is None or stamp != self._stamp:
            if worker is not None:
                worker.close()
            worker = self._new_worker()
        self._spare, self._stamp = None, stamp
        worker.assign(task)
        self._worker = worker
        return worker

    def _new_worker(self) -> Worker:
        log_file = self.home / "logs" / "worker.log"
        return Worker(log_file, gpu=self._policy.limits.device != "cpu")

    def _task(self, message: Message, approved: _Approved) -> Task:
        home = self.home
        for name in ("ledgers", "state"):
            (home / name).mkdir(exist_ok=True, mode=0o700)
        own = [data.file(home) for data in self._policy.data if data.path]
        # The site's own files, without the node key: what runs may act for the site, not be it.
        read = [
            home / "site.toml",
            home / "keys" / "ledger.pem",
            home / "keys" / "data.secret",
            cache_folder(),
            *own,
        ]
        return Task(
            folder=str(home / "bundles" / approved.bundle.sha256),
            app="clients.app:app",
            run_id=int(message.metadata.run_id),
            node_id=self._fleet.node_id,
            node_config={"home": str(home), "threads": self._policy.limits.threads},
            run_config=approved.run_config,
            read=[str(path.absolute()) for path in read],
            write=[str(home / "ledgers"), str(home / "state")],
            threads=self._policy.limits.threads,
            sandbox=self._policy.limits.sandbox,
        )

    # What is on disk ---------------------------------------------------------------------------

    def _keep(self, what: str, message: Message) -> None:
        folder = self.home / "inflight"
        folder.mkdir(exist_ok=True, mode=0o700)
        write_atomic(folder / what, flower.to_bytes(message))

    def _forget(self) -> None:
        for what in (_REPLY, _MESSAGE):
            (self.home / "inflight" / what).unlink(missing_ok=True)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.home).free
        if free < _ROOM_BYTES:
            raise OSError(
                errno.ENOSPC, f"{free:,} bytes are free, {_ROOM_BYTES:,} are needed", str(self.home)
            )

    def _note(self, action: str, **facts: str) -> None:
        """Write into the journal; what is refused stays refused where that fails."""
        try:
            self._journal.write(action, **facts)
        except OSError as error:
            log.error("the journal could not be written: %s", error)

    def _finish_interrupted(self) -> bool:
        """Send the reply that was ready, or answer the message that was taken, before any other.

        Returns whether there was one.
        """
        folder = self.home / "inflight"
        if (folder / _REPLY).exists():
            reply = flower.from_bytes((folder / _REPLY).read_bytes())
            flower.identify(int(reply.metadata.run_id), self._fleet.node_id)
            self._deliver(reply, 0.0)
        elif (folder / _MESSAGE).exists():
            message = flower.from_bytes((folder / _MESSAGE).read_bytes())
            flower.identify(int(message.metadata.run_id), self._fleet.node_id)
            if not self._own:
                # A killed site is let in again only once its rounds have gone on without it. To
                # train now would spend privacy on an update that nobody waits for.
                self._deliver(flower.decline(Code.FAILED, message), 0.0)
                return True
            try:
                approved = self._approve(Incoming(message, None))  # type: ignore[arg-type]
            except RunOver:
                approved = Code.FAILED
            if isinstance(approved, Code):
                self._forget()
            else:
                self._answer(message, approved)
        else:
            return False
        return True

    def _count(
        self,
        message: Message,
        approved: _Approved,
        seconds: float,
        up: int,
        down: int,
        outcome: str,
    ) -> None:
        self._bytes[0] += up
        self._bytes[1] += down
        self._rounds.append(
            {
                "time": _now(),
                "run": str(approved.run_config.get("run.id", "")),
                "scenario": str(approved.run_config.get("federation.name", "")),
                "round": message.metadata.group_id,
                "seconds": round(seconds, 3),
                "bytes_up": up,
                "bytes_down": down,
                "outcome": outcome,
            }
        )
        log.info("round %s: %s in %.1f s", message.metadata.group_id, outcome, seconds)
        self._write_status()

    def _tell(self, state: str, text: str) -> None:
        if state != self._state:
            self._state, self._since = state, _now()
            if text:
                self._say(text)
        self._write_status()

    def _write_status(self) -> None:
        last = self._rounds[-1] if self._rounds else {}
        status = {
            "pid": os.getpid(),
            "state": self._state,
            "since": self._since,
            "coordinator": self.address,
            "run": last.get("run", ""),
            "round": last.get("round", ""),
            "rounds": list(self._rounds),
            "bytes_up": self._bytes[0],
            "bytes_down": self._bytes[1],
        }
        try:
            write_atomic(self.home / "status.json", json.dumps(status, indent=1).encode())
        except OSError as error:
            # The status is for people; a full disk must not end the process that reports it.
            log.error("status.json: %s", error)

    def _read_policy(self) -> SitePolicy:
        return site_policy.load(self.home / "site.toml")

    def _policy_stamp(self) -> tuple[int, int]:
        found = (self.home / "site.toml").stat()
        return found.st_ino, found.st_mtime_ns


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _only_one(home: Path) -> Any:
    """Hold the home for this process; raises BlockingIOError when another one has it."""
    if not home.is_dir():
        raise ValueError(f"{home}: no such folder; make it with `fedlite site init {home}`")
    handle = (home / LOCK).open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise ValueError(
            f"{home}: another process works from this folder already; see `fedlite site status "
            f"{home}`, and stop that one first"
        ) from None
    return handle
