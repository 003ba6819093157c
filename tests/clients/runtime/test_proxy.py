"""The proxy that the environment names, and for whom."""

from __future__ import annotations

import io

import pytest

from clients.runtime.proxy import Proxy, find

NAMES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_capitals_do_not_matter(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert find("fl.example.org", 443) is None
    monkeypatch.setenv(name, "http://proxy.example.org:3128")
    assert find("fl.example.org", 443) == Proxy("proxy.example.org", 3128)


@pytest.mark.parametrize(
    ("text", "host", "port", "login"),
    [
        ("proxy:3128", "proxy", 3128, None),
        ("http://proxy", "proxy", 80, None),
        ("http://proxy:3128/", "proxy", 3128, None),
        ("http://[fd00::1]:3128", "fd00::1", 3128, None),
        ("http://me:p%40ss%3A@proxy:1", "proxy", 1, (b"me", b"p@ss:")),
        ("me@proxy:1", "proxy", 1, (b"me", b"")),
    ],
)
def test_what_it_says(
    monkeypatch: pytest.MonkeyPatch, text: str, host: str, port: int, login: object
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    found = find("fl.example.org", 443)
    assert found is not None and (found.host, found.port, found.login) == (host, port, login)
    assert "ss" not in f"{found} {found.shown}"


@pytest.mark.parametrize(
    "text",
    ["socks5://me:secret@proxy:1", "https://me:secret@proxy:1", "http://me:secret@", "http://p:x"],
)
def test_what_it_must_not_say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    with pytest.raises(ValueError, match=r"must be http://HOST:PORT.* NO_PROXY") as caught:
        find("fl.example.org", 443)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", 200),
        (b"HTTP/1.0 200\r\nVia: x\r\n\r\n", 200),
        (b"HTTP/1.1 407 No\r\n\r\n<html>", 407),
        (b"HTTP/1.1 200 OK\r\n\r\n\x16\x03", 0),
        (b"SSH-2.0\r\n\r\n", 0),
        (b"HTTP/1.1 200", 0),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 10**6 + b"\r\n\r\n", 0),
        (b"", 0),
    ],
)
def test_what_a_proxy_answers(answer: bytes, status: int) -> None:
    stream, sent = io.BytesIO(answer), []
    found = Proxy("p", 1, (b"me", b"secret")).tunnel("::1", 443, sent.append, stream.read)
    assert found == status and stream.tell() < 30_000
    assert sent == [
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n"
        b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
    ]


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(
    ("entries", "host", "direct"),
    [
        ("*", "fl.example.org", True),
        ("other.org, example.org", "fl.example.org", True),
        (".example.org", "fl.example.org", True),
        ("example.org:8443", "fl.example.org", True),
        ("example.org:1", "fl.example.org", False),
        ("ample.org", "fl.example.org", False),
        ("", "fl.example.org", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("fd00::/8,x/y", "fd12::1", True),
        ("fd00::/8", "fl.example.org", False),
    ],
)
def test_for_whom_it_is_not(
    monkeypatch: pytest.MonkeyPatch, name: str, entries: str, host: str, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv(name, entries)
    assert (find(host, 8443) is None) == direct
