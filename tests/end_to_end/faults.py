"""What may happen to a run of real processes, done to it at the moment that matters.

A moment that lasts milliseconds is caught by watching the files that it leaves, or by stopping a
process in it; where it was missed, the next round offers another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.coordinator import superlink
from server.coordinator.folder import Coordinator

TRIES = 5
CUT_SECONDS = 30.0


@dataclass
class Fault:
    """What was done, what followed, the rounds that missed somebody, and how long it took."""

    what: str
    happened: str
    first: int
    last: int
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


def mounts() -> str:
    """Return why no small disk can be mounted here, or nothing."""
    if os.geteuid() != 0:
        return "a full disk is a small tmpfs, and mounting one needs root"
    trial = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False)
    return "" if trial.returncode == 0 else "no tmpfs can be mounted on this machine"


def mount(folder: Path, size: str = "64m") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def fill(folder: Path) -> Path:
    """Leave not one byte on the disk of `folder`; returns the file to remove."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return path


def send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Play:
    """Strikes a run, and notes what follows."""

    def __init__(self, lab: Any, name: str, wait: Callable[..., Any]) -> None:
        self.lab, self.name, self.wait = lab, name, wait
        self.run = lab.coordinator / "runs" / name
        self.faults: dict[str, Fault] = {}

    @property
    def done(self) -> int:
        return len(self.lab.rounds(self.name))

    def whole(self, after: int) -> int:
        """Wait for a round after number `after` in which all four were used; return it."""

        def found() -> int | None:
            assert self.lab.job(self.name)["state"] == "running", self.lab.logs()
            for row in self.lab.rounds(self.name)[after:]:
                if row["accepted"] == len(self.lab.partners):
                    return int(row["round"])
            return None

        try:
            return int(self.wait(f"a whole round after {after}", found))
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.lab.logs()}") from None

    def note(
        self, fault: str, what: str, happened: str, done: int, begun: float, **facts: Any
    ) -> None:
        """Wait until all is well again and write the fault down."""
        last = self.whole(done)
        seconds = time.monotonic() - begun
        self.faults[fault] = Fault(what, happened, done + 1, last, seconds, facts)

    def workers(self, partner: Any) -> list[int]:
        shown = subprocess.run(
            ["pgrep", "-P", str(partner.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in shown.stdout.split()]

    def held(self, partner: Any) -> list[int]:
        """Return the site's own process, which wakes its worker when it likes, and the worker."""
        return [partner.process.pid, *self.workers(partner)]

    def nginx(self) -> list[int]:
        return [
            pid
            for pid in superlink.leftovers(Coordinator.open(self.lab.coordinator))
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nginx:")
        ]

    def stopped_at_reserve(self, partner: Any) -> int:
        """Stop the site between the reservation of a round and its release.

        Returns the round. One that was faster is let go, and caught in the next round.
        """
        ledger, held = partner.home / "ledgers" / "heart-disease.jsonl", self.held(partner)
        until = time.monotonic() + 120
        for _ in range(TRIES):
            size = ledger.stat().st_size
            while ledger.stat().st_size == size:
                assert time.monotonic() < until, f"{partner.name}: no row\n{self.lab.logs()}"
                time.sleep(0.0005)
            send(signal.SIGSTOP, held)
            time.sleep(0.01)
            last = partner.ledger()[-1]
            if last["kind"] == "reserve":
                return int(last["body"]["round"])
            send(signal.SIGCONT, held)
            time.sleep(0.05)
        raise AssertionError(f"{partner.name}: {TRIES} times too late to stop it after reserving")

    def back(self, *partners: Any) -> None:
        for partner in partners:
            partner.start()
        for partner in partners:
            partner.wait_online(150)

    # Sites -------------------------------------------------------------------------------------

    def two_sites_killed(self, training: Any, reserved: Any) -> None:
        """Kill one while it trains, and another between reserving and sending."""
        caught: list[int] = []
        watcher = threading.Thread(target=lambda: caught.append(self.stopped_at_reserve(reserved)))
        watcher.start()
        kept, replied = (training.home / "inflight" / name for name in ("message", "reply"))
        for _ in range(TRIES):
            held, until = self.held(training), time.monotonic() + 120
            while not kept.exists():
                assert time.monotonic() < until, f"no message in flight\n{self.lab.logs()}"
                time.sleep(0.0005)
            send(signal.SIGSTOP, held)
            time.sleep(0.01)
            done = self.done
            if not replied.exists() and training.ledger()[-1]["body"].get("round", 0) <= done:
                break
            send(signal.SIGCONT, held)
            while kept.exists():
                time.sleep(0.001)
        else:
            raise AssertionError(f"{training.name}: {TRIES} times too late to stop its training")
        begun = time.monotonic()
        training.kill()
        before = training.ledger()
        watcher.join(120)
        assert caught, "nobody was caught after reserving"
        second = time.monotonic()
        reserved.kill()
        rows = reserved.ledger()
        sent = {"message": kept.exists(), "reply": replied.exists()}
        self.back(training, reserved)
        self.note(
            "training", "site killed while training", "the round went on without it, unspent",
            done, begun, site=training.name, rows=before, inflight=sent, round=done + 1,
        )  # fmt: skip
        self.note(
            "reserved", "site killed between reserve and send",
            "the round is spent, and went on without it", caught[0] - 1, second, site=reserved.name,
            rows=rows, round=caught[0],
        )  # fmt: skip

    def killed_sending_and_away(self, sending: Any, away: Any) -> None:
        """Kill one while it sends, while another is away for two rounds and more."""
        round_ = self.stopped_at_reserve(sending)
        held, nginx = self.held(sending), self.nginx()
        send(signal.SIGSTOP, nginx)
        try:
            send(signal.SIGCONT, held)
            self.wait("a reply in flight", (sending.home / "inflight" / "reply").exists)
            begun = time.monotonic()
            sending.kill()
        finally:
            send(signal.SIGCONT, nginx)
        kept = (sending.home / "inflight" / "reply").exists()
        rows, gone = sending.ledger(), time.monotonic()
        # A machine that is shut down, in order, and starts again later.
        assert away.stop() == 0, away.log
        left = self.done
        sending.start()

        def missed() -> bool:
            return sum(r["accepted"] < 4 for r in self.lab.rounds(self.name)[left:]) >= 2

        self.wait("two rounds without a site", missed)
        without = self.done
        away.start()
        sending.wait_online(150)
        away.wait_online(150)
        self.note(
            "sending", "site killed while sending", "the kept reply was sent when it was back",
            round_ - 1, begun, site=sending.name, rows=rows, kept=kept, round=round_,
        )  # fmt: skip
        self.note(
            "away", "site down for two rounds", "the others went on; it caught up", without,
            gone, site=away.name, left=left, without=without,
        )  # fmt: skip

    def site_disk_full(self, partner: Any) -> None:
        done, begun, pid = self.done, time.monotonic(), partner.process.pid
        filler = fill(partner.home)

        def declined() -> list[dict[str, Any]]:
            rows = self.lab.rounds(self.name)[done:]
            return [r for r in rows if r["dropped"].get(partner.name) == "failed"]

        try:
            self.wait("a round declined for want of room", declined)
            alive = partner.process.poll() is None
        finally:
            filler.unlink()
        rounds = [r["round"] for r in declined()]
        self.note(
            "site-disk", "disk full at a site", "it declined, and took part again with room",
            self.done, begun, declined=rounds, alive=alive, site=partner.name,
            same=partner.process.pid == pid,
            poisoned=(partner.home / "ledgers" / "heart-disease.jsonl.poisoned").exists(),
        )  # fmt: skip
        self.faults["site-disk"].first = done + 1

    # Coordinator -------------------------------------------------------------------------------

    def kill_coordinator(self) -> list[str]:
        """Kill everything of the coordinator at once; returns the names of what was killed."""
        folder = Coordinator.open(self.lab.coordinator)
        supervisor = superlink.running(folder)
        assert supervisor
        send(signal.SIGKILL, [supervisor])
        pids = superlink.leftovers(folder)
        names = [Path(f"/proc/{p}/cmdline").read_bytes().replace(b"\0", b" ") for p in pids]
        send(signal.SIGKILL, pids)
        return [name.decode(errors="replace") for name in names]

    def killed_in_a_round(self, partner: Any) -> None:
        round_ = self.stopped_at_reserve(partner)
        begun, done = time.monotonic(), self.done
        names = self.kill_coordinator()
        send(signal.SIGCONT, self.held(partner))
        self.lab.start()
        self.note(
            "mid-round", "coordinator killed in a round", "the run went on from its checkpoint",
            done, begun, killed=names, round=round_,
        )  # fmt: skip

    def killed_in_a_checkpoint(self) -> None:
        folder, part = self.run / "checkpoint", ""
        for _ in range(TRIES):
            until = time.monotonic() + 60
            while time.monotonic() < until and not part:
                for name in os.listdir(folder):
                    if name.startswith(".server.safetensors.") and name.endswith(".part"):
                        part = name
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(name.split(".")[-2]), signal.SIGKILL)
            begun = time.monotonic()
            if part and (folder / part).exists():
                break
            # It had been renamed already: only a process was killed, between two rounds.
            part = ""
            self.whole(self.done)
        assert part, f"{TRIES} times too late to end it while it wrote the checkpoint"
        self.kill_coordinator()
        # It had recorded the round whose checkpoint is not whole; that round is played again.
        done = self.done
        self.lab.start()
        self.note(
            "mid-checkpoint", "coordinator killed in a checkpoint",
            "the round of the torn checkpoint was played again", done, begun, part=part,
        )  # fmt: skip

    def gateway_killed(self) -> None:
        done, begun, killed = self.done, time.monotonic(), self.nginx()
        send(signal.SIGKILL, killed)
        folder = Coordinator.open(self.lab.coordinator)
        self.wait("the gateway", lambda: superlink.answers(folder))
        answered = time.monotonic() - begun
        self.note(
            "gateway", "gateway killed", f"the supervisor had it back in {answered:.1f} s",
            done + 1, begun, killed=killed, now=self.nginx(),
        )  # fmt: skip

    def connection_cut(self) -> None:
        nginx, done, begun = self.nginx(), self.done, time.monotonic()
        send(signal.SIGSTOP, nginx)
        try:
            time.sleep(CUT_SECONDS)
            during = self.done
        finally:
            send(signal.SIGCONT, nginx)
        self.note(
            "cut", f"connection cut for {CUT_SECONDS:.0f} s", "the sites came back by themselves",
            during, begun, during=during - done,
            alive=[p.process.poll() is None for p in self.lab.partners.values()],
        )  # fmt: skip
        self.faults["cut"].first = done + 1

    def coordinator_disk_full(self) -> None:
        """Let the run find its folder on a disk that is full."""
        runs = self.lab.coordinator / "runs"
        small = self.lab.root / "small-disk"
        mount(small)
        done, begun, restarts = self.done, time.monotonic(), self.lab.job(self.name)["restarts"]
        servers = [
            pid
            for pid in superlink.descendants(Coordinator.open(self.lab.coordinator))
            if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        send(signal.SIGSTOP, servers)
        shutil.copytree(runs, small, dirs_exist_ok=True)
        subprocess.run(["mount", "--bind", small, runs], check=True)
        try:
            filler = fill(runs)
            send(signal.SIGCONT, servers)
            log = self.lab.coordinator / "logs" / "coordinator.log"
            self.wait("the run waits", lambda: "waits for room" in log.read_text())
            time.sleep(5)
            job, reason = self.lab.job(self.name), (self.run / "failed.json").exists()
            filler.unlink()
            self.note(
                "coordinator-disk", "disk full at the coordinator",
                "the run waited for room, and went on", done, begun, job=job, reason=reason,
                restarts=restarts,
            )  # fmt: skip
            self.lab.wait_end(self.name)
        finally:
            unmount(runs)
            shutil.copytree(small, runs, dirs_exist_ok=True)
            unmount(small)
