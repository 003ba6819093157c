"""Requests that come at about the same time are answered together, off the event loop.

A batch goes when it is full or its oldest request has waited for `wait`, one at a time. What
cannot be queued is refused at once; what is cancelled, or too late before its batch goes, is never
computed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fedlite.inference.serving.refused import Refused

Run = Callable[[Sequence[Any]], Sequence[Any]]
# One client may hold a part of the queue, the whole divided by this, or one request.
_PARTS = 4


@dataclass(frozen=True)
class Limits:
    """What is taken at once. batch, request, queue: rows, of a batch, a request and all that waits.

    wait: seconds that a request waits for others; 0: none.
    """

    batch: int = 256
    request: int = 4096
    queue: int = 16_384
    wait: float = 0.002

    def __post_init__(self) -> None:
        """Raise ValueError for limits that cannot be."""
        for name in ("batch", "request", "queue"):
            if not 1 <= (value := getattr(self, name)) <= 1_000_000:
                raise ValueError(f"--{name}-rows: must be from 1 to 1000000, got {value}")
        if not 0 <= self.wait <= 1:
            raise ValueError(f"--wait-ms: must be from 0 to 1000, got {1000 * self.wait:g}")
        if self.queue < self.request:
            raise ValueError(
                f"--queue-rows: must be at least --request-rows, {self.request}, got {self.queue}; "
                "else the longest request never fits"
            )


@dataclass(eq=False)
class _Job:
    what: Any
    rows: int
    who: str
    came: float
    until: float
    done: asyncio.Future[Any] = field(repr=False)


class Batcher:
    """What answers requests in batches, in a thread of its own.

    run: gets what was submitted, some at a time, and returns a result for each; a result that is an
    exception is raised for its own request alone. after: called in the same thread with what `run`
    got and returned, once the answers are on their way.
    """

    def __init__(
        self, run: Run, limits: Limits, after: Callable[[Sequence[Any], Sequence[Any]], None]
    ) -> None:
        """Take the running event loop; nothing is started before the first request."""
        self.limits = limits
        self.waiting = 0  # rows
        self._held: Counter[str] = Counter()  # rows, too
        self.batches = self.late = 0
        self._run, self._after = run, after
        self._loop = asyncio.get_running_loop()
        # One thread: the graphs run in one, and a second would wait for the first.
        self._thread = ThreadPoolExecutor(1, "fedlite-answers")
        # In their order; one that is cancelled is taken out from between the others.
        self._queue: dict[int, _Job] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False

    async def submit(
        self, what: Any, rows: int, seconds: float | None, who: str | None = None
    ) -> Any:
        """Return the result of one request, which somebody waits for so many seconds (None: ever).

        who: the client, who may not fill the queue; None: nobody knows. Raises Refused where it
        cannot be queued or is too late, and what `run` gave for it.
        """
        if rows > self.limits.queue - self.waiting:
            raise Refused(
                "RESOURCE_EXHAUSTED",
                f"queue: has room for {self.limits.queue - self.waiting} rows now, got {rows}; "
                "come back later",
            )
        name, most = who or "", self.limits.queue // _PARTS
        if who is not None and 0 < self._held[name] and self._held[name] + rows > most:
            raise Refused(
                "RESOURCE_EXHAUSTED",
                f"queue: must hold at most {most} rows of one client, got {rows} beside "
                f"{self._held[name]} that wait; come back later",
            )
        now = self._loop.time()
        until = float("inf") if seconds is None else now + seconds
        job = _Job(what, rows, name, now, until, self._loop.create_future())
        self._queue[id(job)] = job
        self.waiting += rows
        self._held[name] += rows
        self._look()
        try:
            return await job.done
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def close(self) -> None:
        """End the thread once what it computes is done; whatever waits is refused."""
        for job in list(self._queue.values()):
            self._drop(job)
            if not job.done.done():
                job.done.set_exception(Refused("UNAVAILABLE", "server: is stopping; ask another"))
        self._thread.shutdown(wait=True)

    def _drop(self, job: _Job) -> None:
        if self._queue.pop(id(job), None) is not None:
            self.waiting -= job.rows
            self._held[job.who] -= job.rows
            if not self._held[job.who]:
                del self._held[job.who]

    def _look(self) -> None:
        """Begin a batch, or wait for more."""
        if self._busy or not self._queue:
            return
        oldest = next(iter(self._queue.values()))
        due = oldest.came + self.limits.wait
        if self.waiting >= self.limits.batch or due <= self._loop.time():
            self._begin()
        elif self._timer is None:
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        # Clocks of timers are coarse, so it need not be due to the microsecond.
        if not self._busy and self._queue:
            self._begin()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        jobs: list[_Job] = []
        rows, now = 0, self._loop.time()
        while self._queue:
            job = next(iter(self._queue.values()))
            if job.until <= now:
                self._drop(job)
                self.late += 1
                if not job.done.done():
                    text = "deadline: has passed before it was computed; come back later"
                    job.done.set_exception(Refused("DEADLINE_EXCEEDED", text))
                continue
            if jobs and rows + job.rows > self.limits.batch:
                break
            self._drop(job)
            jobs.append(job)
            rows += job.rows
        if not jobs:
            return
        self._busy = True
        self.batches += 1
        self._loop.run_in_executor(self._thread, self._work, jobs).add_done_callback(self._ended)

    def _work(self, jobs: list[_Job]) -> None:
        whats = [job.what for job in jobs]
        try:
            results = self._run(whats)
        except Exception as error:  # whatever it is, each that waits has to hear of it
            results = [error] * len(jobs)
        self._loop.call_soon_threadsafe(_deliver, jobs, results)
        self._after(whats, results)

    def _ended(self, future: asyncio.Future[None]) -> None:
        self._busy = False
        self._look()
        if not future.cancelled() and (error := future.exception()) is not None:
            self._loop.call_exception_handler({"message": "after a batch", "exception": error})


def _deliver(jobs: list[_Job], results: Sequence[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if job.done.done():
            continue
        if isinstance(result, BaseException):
            job.done.set_exception(result)
        else:
            job.done.set_result(result)
