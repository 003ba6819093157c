"""The text that Prometheus reads, against its grammar written down anew, and who may read it."""

from __future__ import annotations

import http.client
import importlib.util
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlite.deployment import journal, prometheus
from fedlite.deployment.prometheus import Metric, counter, gauge, outcome, refusals, text
from simulations.benchmarks.lab import free_port

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})?'
    r" (?P<value>[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf|nan))"
)
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


def plain(value: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)


def parse(page: str) -> dict[tuple[str, ...], float]:
    """Return value by name and labels; raises AssertionError where the format is broken.

    Written after the format's description, not after the code: every family is announced once,
    and its samples follow it.
    """
    found: dict[tuple[str, ...], float] = {}
    family, seen = "", set()
    assert page.endswith("\n")
    for line in page[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in seen and len(line.split(" ", 3)) == 4
            seen.add(family)
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == family and line.split(" ")[3] in ("gauge", "counter")
            assert line.endswith("counter") == family.endswith("_total")
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None and match["name"] == family, line
            labels = [f"{k}={plain(v)}" for k, v in LABEL.findall(match["labels"] or "")]
            key = (family, *sorted(labels))
            assert key not in found
            found[key] = float(match["value"])
    return found


METRICS = [
    gauge("a", "One figure.", 1.5),
    gauge("b", "Ill-meant labels.", {'x"} 1\nfake 2': 1, "back\\slash": 2, "": 3}, "of"),
    counter("c", "Counts.", {"up": 10**12, "down": 0}, "direction"),
    gauge("d", "No sample.", {}, "of"),
    gauge("e", "True or false.", True),
]


def test_the_text_keeps_to_the_format_whatever_a_label_holds() -> None:
    assert parse(text(METRICS)) == {
        ("fedlite_a",): 1.5,
        ("fedlite_b", 'of=x"} 1\nfake 2'): 1,
        ("fedlite_b", "of=back\\slash"): 2,
        ("fedlite_b", "of="): 3,
        ("fedlite_c_total", "direction=up"): 1e12,
        ("fedlite_c_total", "direction=down"): 0,
        ("fedlite_e",): 1,
    }


@pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None, reason="no prometheus_client here"
)
def test_its_own_library_reads_the_same() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    read = {
        (sample.name, *sorted(f"{k}={v}" for k, v in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(METRICS))
        for sample in family.samples
    }
    assert read == parse(text(METRICS))


@pytest.mark.parametrize(
    "page", ["a 1\n", "# HELP a b\n# TYPE a gauge\nb 1\n", '# HELP a b\na{x="1} 2\n']
)
def test_the_grammar_can_fail(page: str) -> None:
    with pytest.raises(AssertionError):
        parse(page)


def test_labels_are_bounded_whatever_a_site_tells() -> None:
    assert outcome("bad-update") == "bad-update" and outcome("sent") == "sent"
    assert outcome("x" * 1000) == outcome("") == "other"


def test_refusals_are_those_of_a_day(tmp_path: Path) -> None:
    journal.Journal(tmp_path).write("refuse", why="x")
    journal.Journal(tmp_path).write("approve", bundle="x")
    path = next(tmp_path.glob("audit-*.jsonl"))
    old = path.read_bytes().splitlines()[0].replace(b'"time":"20', b'"time":"19')
    path.write_bytes(path.read_bytes() + old + b"\n{torn\n")
    assert refusals(tmp_path).samples == [({}, 1)]
    assert refusals(tmp_path / "none").samples == [({}, 0)]


# As a file -------------------------------------------------------------------------------------


def test_the_file_is_whole_and_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "fedlite.prom"
    prometheus.write_textfile(path, METRICS)
    assert path.read_text() == text(METRICS) and path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"must end in \.prom"):
        prometheus.write_textfile(tmp_path / "fedlite.txt", METRICS)


# Over HTTP -------------------------------------------------------------------------------------


@pytest.fixture
def figures() -> list[Metric]:
    return list(METRICS)


@pytest.fixture
def port(figures: list[Metric]) -> Iterator[int]:
    server = prometheus.listen(f"127.0.0.1:{free_port()}")
    stop = threading.Event()

    def collect() -> list[Metric]:
        if not figures:
            raise ValueError("secret text of an error")
        return figures

    thread = threading.Thread(target=prometheus.serve, args=(server, collect, stop))
    thread.start()
    yield server.server_address[1]
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type") or "", answer.read().decode()


def test_metrics_are_served_and_nothing_else(port: int) -> None:
    assert get(port, "/metrics") == (200, prometheus.CONTENT_TYPE, text(METRICS))
    for path in ("/", "/metrics/../../etc/passwd", "/metrics?x=1"):
        assert get(port, path)[0] == 404
    assert get(port, "/metrics", "POST")[0] == 501
    assert get(port, "/metrics")[0] == 200


def test_a_page_in_a_browser_here_cannot_read_them_by_a_name_of_its_own(port: int) -> None:
    for host in ("attacker.example.org", "192.0.2.1:80", "[", ""):
        assert get(port, "/metrics", Host=host)[0] == 403
    for host in ("localhost:1", f"127.0.0.1:{port}", "[::1]"):
        assert get(port, "/metrics", Host=host)[0] == 200


def test_an_error_leaves_without_its_text(port: int, figures: list[Metric]) -> None:
    figures.clear()
    status, _, body = get(port, "/metrics")
    assert status == 500 and "secret" not in body
    figures.append(METRICS[0])
    assert get(port, "/metrics")[0] == 200


def test_who_sends_slowly_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        begun = time.monotonic()
        slow.sendall(b"GET /metr")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                try:
                    slow.sendall(b"i")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert get(port, "/metrics")[0] == 200
        finally:
            stop.set()
            thread.join()
        assert 0.5 < time.monotonic() - begun < 10


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464"])
def test_no_address_that_others_reach_without_a_word(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be of this machine alone.*--anywhere"):
        prometheus.listen(address)


def test_with_a_word_it_is_any_address() -> None:
    prometheus.listen(f"0.0.0.0:{free_port()}", anywhere=True).server_close()
    prometheus.listen(f"localhost:{free_port()}").server_close()


@pytest.mark.parametrize("address", ["metrics.example.org:9464", "9464", "127.0.0.1", ""])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        prometheus.listen(address)


def test_a_port_in_use_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as held,
        pytest.raises(ValueError, match="choose another port"),
    ):
        prometheus.listen(f"127.0.0.1:{held.getsockname()[1]}")


def test_a_histogram_counts_the_smaller_ones_too() -> None:
    found = prometheus.histogram("seconds", "How long.", (0.1, 1.0), (3, 0, 2), 7.5)
    assert prometheus.text([found]).splitlines() == [
        "# HELP fedlite_seconds How long.",
        "# TYPE fedlite_seconds histogram",
        'fedlite_seconds_bucket{le="0.1"} 3',
        'fedlite_seconds_bucket{le="1"} 3',
        'fedlite_seconds_bucket{le="+Inf"} 5',
        "fedlite_seconds_sum 7.5",
        "fedlite_seconds_count 5",
    ]
