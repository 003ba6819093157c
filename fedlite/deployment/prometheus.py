"""Figures for Prometheus: its text format (0.0.4), as a file and over HTTP on this machine.

Whoever reaches the port reads the figures, so it is one of this machine's own addresses unless the
operator says otherwise. Nothing that is sent to it is looked at beyond the path.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from fedlite.deployment import journal
from fedlite.deployment.invitation import split_address
from fedlite.messages import Code
from fedlite.storage import write_atomic

log = logging.getLogger("fedlite.metrics")

# One number, or one for each value of a label, or of several.
Value = float | Mapping[str, float] | Mapping[tuple[str, ...], float]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
# What a label may say of an update: the rest is one value, whoever made it up.
_OUTCOMES = {"sent", "used", "missing", *(code.value for code in Code)}
_SECONDS = 10.0


@dataclass(frozen=True)
class Metric:
    """One figure, or one for each set of labels. kind: "gauge" or "counter"."""

    name: str
    help: str
    kind: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def gauge(name: str, help: str, value: Value, *labels: str) -> Metric:
    """Return a figure that goes up and down; with `labels` one for each of their values."""
    return Metric(f"fedlite_{name}", help, "gauge", _samples(value, labels))


def counter(name: str, help: str, value: Value, *labels: str) -> Metric:
    """Return a figure that only goes up, from 0 at a start; with `labels` one for each value."""
    return Metric(f"fedlite_{name}_total", help, "counter", _samples(value, labels))


@dataclass(frozen=True)
class Histogram:
    """How values are spread. bounds: the upper end of each bucket, rising; `counts` has one more,
    for what is larger. sum: of all values."""

    name: str
    help: str
    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float

    def lines(self) -> list[str]:
        """Return its samples, of which each bucket counts those of the smaller ones, too."""
        found, below = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            end = "+Inf" if bound == float("inf") else f"{bound:g}"
            found.append(f'{self.name}_bucket{{le="{end}"}} {below}')
        return [*found, f"{self.name}_sum {self.sum:.12g}", f"{self.name}_count {below}"]


def histogram(
    name: str, help: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> Histogram:
    """Return how values that add up to `total` are spread; see `Histogram`."""
    return Histogram(f"fedlite_{name}", help, bounds, counts, total)


def outcome(text: str) -> str:
    """Return what became of an update as a label: one of a dozen values, whatever is told."""
    return text if text in _OUTCOMES else "other"


def refusals(audit: Path) -> Metric:
    """Return how often the journal in `audit` says "refuse" in the last 24 hours."""
    since = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = journal.read(audit)
    count = sum(row["action"] == "refuse" and str(row.get("time")) >= since for row in rows)
    return gauge("refusals_day", "Refusals in the journal in the last 24 hours.", count)


def text(metrics: Sequence[Metric | Histogram]) -> str:
    """Return the text that Prometheus reads.

    >>> print(text([gauge("budget", "Left.", {"heart": 1.5}, "dataset")]), end="")
    # HELP fedlite_budget Left.
    # TYPE fedlite_budget gauge
    fedlite_budget{dataset="heart"} 1.5
    """
    lines = []
    for one in metrics:
        kind = "histogram" if isinstance(one, Histogram) else one.kind
        lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {kind}"]
        if isinstance(one, Histogram):
            lines += one.lines()
            continue
        for labels, value in one.samples:
            inner = ",".join(f'{k}="{v.translate(_ESCAPES)}"' for k, v in labels.items())
            lines.append(f"{one.name}{'{' + inner + '}' if inner else ''} {float(value):.12g}")
    return "\n".join(lines) + "\n"


def write_textfile(path: Path, metrics: Sequence[Metric]) -> None:
    """Write the text for node_exporter's textfile collector, whole or not at all, for all to read.

    Raises ValueError for a name that it would pass over, OSError when it cannot be written.
    """
    if path.suffix != ".prom":
        raise ValueError(
            f"--textfile: must end in .prom, as node_exporter reads no other, got {path.name!r}"
        )
    write_atomic(path, text(metrics).encode())
    path.chmod(0o644)


class _Server(HTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a connection broke off")


class _Server6(_Server):
    address_family = socket.AF_INET6


def listen(address: str, *, anywhere: bool = False, option: str = "--listen") -> HTTPServer:
    """Return a server for IP:PORT that serves nothing yet.

    option: what named the address, for errors.

    Raises ValueError for an address that is not this machine's own, unless `anywhere`.
    """
    host, port = split_address(address)
    try:
        found = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ValueError(f"{option}: must be an IP address and a port, got {address!r}") from None
    if not (found.is_loopback or anywhere):
        override = ", or add --anywhere" if option == "--listen" else ""
        raise ValueError(
            f"{option}: must be of this machine alone, such as 127.0.0.1:{port}, got {address}; "
            f"who reaches it reads every figure: put it behind what asks for a password{override}"
        )

    try:
        kind = _Server6 if found.version == 6 else _Server
        return kind((str(found), port), BaseHTTPRequestHandler)
    except OSError as error:
        raise ValueError(f"{option} {address}: {error.strerror}; choose another port") from None


def serve(
    server: HTTPServer, collect: Callable[[], Sequence[Metric | Histogram]], stop: threading.Event
) -> None:
    """Answer GET /metrics with what `collect` returns, until `stop` is set; then close it.

    One connection at a time, each for ten seconds at most. What `collect` raises is a 500 without
    its text, which is logged.
    """
    own = ipaddress.ip_address(str(server.server_address[0])).is_loopback

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "fedlite", ""

        def setup(self) -> None:
            # A client that sends a byte now and then must not keep the others waiting.
            self._timer = threading.Timer(_SECONDS, _cut, (self.request,))
            self._timer.daemon = True
            self._timer.start()
            super().setup()

        def finish(self) -> None:
            self._timer.cancel()
            super().finish()

        def do_GET(self) -> None:
            if own and not _here(self.headers.get("Host", "")):
                self.send_error(403)
                return
            if self.path != "/metrics":
                self.send_error(404)
                return
            try:
                body = text(collect()).encode()
            except Exception:
                log.exception("the figures could not be read")
                self.send_error(500)
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    server.RequestHandlerClass = Handler
    server.timeout = 0.5
    with server:
        while not stop.is_set():
            server.handle_request()


def _here(host: str) -> bool:
    """Return whether a Host header names this machine, not a name that somebody lets lead here.

    Else a page in a browser on this machine could read the figures, as of its own site.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a connection had ended")


def _samples(value: Value, labels: tuple[str, ...]) -> Sequence[tuple[Mapping[str, str], float]]:
    if not isinstance(value, Mapping):
        return [({}, value)]
    keys = {key: (key,) if isinstance(key, str) else key for key in value}
    return [(dict(zip(labels, keys[key], strict=True)), value[key]) for key in keys]  # type: ignore[index]
