"""What a server counts of itself, and as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from fedlite.deployment.prometheus import Histogram, Metric, counter, gauge, histogram
from fedlite.inference.serving.batcher import Batcher
from fedlite.inference.serving.versions import Versions

# Seconds.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Figures:
    """Counts from a start on. Names of clients are not among them: whoever reads the port would."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.codes: Counter[str] = Counter()
        self.hits = 0
        self._seconds = [0] * (len(_BOUNDS) + 1)
        self._total = 0.0

    def took(self, seconds: float, code: str) -> None:
        """Count a request that got an answer or a code, and how long that took."""
        self.codes[code] += 1
        self._seconds[bisect_left(_BOUNDS, seconds)] += 1
        self._total += seconds

    def metrics(self, versions: Versions, batcher: Batcher) -> list[Metric | Histogram]:
        """Return all of them, with those of the versions and of the queue."""
        every = versions.all()
        found: list[Metric | Histogram] = [
            counter("requests", "Requests by gRPC's code.", dict(self.codes), "code"),
            histogram("seconds", "Seconds a request took.", _BOUNDS, self._seconds, self._total),
            counter("rows", "Rows answered.", {v.name: v.rows for v in every}, "version"),
            counter(
                "rows_early",
                "Rows answered by the shallow branch.",
                {v.name: v.early for v in every},
                "version",
            ),
            gauge(
                "all_deep",
                "1 while an alarm makes all inputs go deep.",
                {v.name: float(v.deep) for v in every},
                "version",
            ),
            gauge("queue_rows", "Rows that wait.", batcher.waiting),
            counter("batches", "Batches computed.", batcher.batches),
            counter("late", "Requests that were too late before they were computed.", batcher.late),
            counter("cache_hits", "Requests answered from the cache.", self.hits),
        ]
        watched = {v.name: v.drift for v in every if v.drift is not None}
        found += [
            counter(
                "watched",
                "Rows of which it was looked whether they should have gone deep.",
                {name: one.seen for name, one in watched.items()},
                "version",
            ),
            counter(
                "watched_differ",
                "Of these, left early with another answer than the deep one.",
                {name: one.happened for name, one in watched.items()},
                "version",
            ),
            gauge("candidate", "1 while there is a candidate.", float(len(every) > 1)),
            counter("compared", "Rows that both versions answered.", versions.compared),
            counter("differed", "Of these, answered otherwise.", versions.differed),
        ]
        return found
