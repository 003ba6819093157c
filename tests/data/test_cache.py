import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fedlite.data.cache import cache_folder, download, locked, read_cached, verify

BODY = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    """Serves BODY; understands `Range: bytes=N-` unless told otherwise; may cut the line."""

    ranges: list[str | None]
    understands = True
    cut_after: int | None = None

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        start = int(asked[6:-1]) if asked and self.understands else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        body = BODY[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.cut_after is None else body[: self.cut_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Own", (Handler,), {"ranges": []})
    with HTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/file", handler
        httpd.shutdown()
        thread.join()


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", "/a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/a/b")
    monkeypatch.delenv("FEDLITE_CACHE")
    assert cache_folder() == Path("/c/fedlite")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache_folder() == Path("/home/x/.cache/fedlite")


def test_verify_returns_the_bytes_or_names_the_mend() -> None:
    pin = hashlib.sha256(b"abc").hexdigest()
    assert verify(b"abc", pin, name="digits", path=Path("f")) == b"abc"
    with pytest.raises(ValueError, match=rf"f: the sha256 must be {pin}.*`fedlite data fetch digi"):
        verify(b"abd", pin, name="digits", path=Path("f"))


def test_a_missing_file_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No such file.*run `fedlite data fetch thing`"):
        read_cached(tmp_path / "f", name="thing")


def test_a_cut_download_resumes_where_it_stopped(
    tmp_path: Path, server: tuple[str, type[Handler]]
) -> None:
    url, handler = server
    part = tmp_path / "file.part"
    handler.cut_after = 1000
    with pytest.raises(OSError, match="1000"):
        download(url, part, limit=len(BODY))
    assert part.read_bytes() == BODY[:1000]
    handler.cut_after = None
    assert download(url, part, limit=len(BODY)) == BODY
    assert handler.ranges == [None, "bytes=1000-"]


def test_a_server_without_ranges_is_read_from_the_start(
    tmp_path: Path, server: tuple[str, type[Handler]]
) -> None:
    url, handler = server
    handler.understands = False
    part = tmp_path / "file.part"
    part.write_bytes(b"x" * 10)
    assert download(url, part, limit=len(BODY)) == BODY


def test_a_complete_part_is_returned(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    url, _ = server
    part = tmp_path / "file.part"
    part.write_bytes(BODY)
    assert download(url, part, limit=len(BODY)) == BODY


def test_a_server_that_sends_too_much_is_stopped(
    tmp_path: Path, server: tuple[str, type[Handler]]
) -> None:
    url, _ = server
    with pytest.raises(ValueError, match="must be at most 5000 bytes"):
        download(url, tmp_path / "file.part", limit=5000)
    assert not (tmp_path / "file.part").exists()


def test_no_server_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused"):
        download("http://127.0.0.1:9/x", tmp_path / "p", limit=10, timeout=2)


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    import fcntl

    with (
        locked(tmp_path / "new"),
        (tmp_path / "new" / ".lock").open("w") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path / "new"):
        pass
