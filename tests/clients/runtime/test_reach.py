"""The ways to a coordinator: through a proxy, over IPv6, and both as the site and as doctor goes.

Covers clients/runtime/proxy.py, clients/runtime/line.py.
"""

from __future__ import annotations

import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clients.runtime.fleet import Fleet, Refused, Unreachable
from clients.runtime.reach import Reach, reach
from tests.clients.runtime.coordinators import Coordinator, coordinator, ok, proxy
from tests.clients.runtime.test_doctor import Authority

KEY = ec.generate_private_key(ec.SECP384R1())
LOGIN = "me:s3cret%40"


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path, "ca")
    (tmp_path / "ca.crt").write_text(made.pem)
    return made


@pytest.fixture
def there(authority: Authority) -> Iterator[Coordinator]:
    with coordinator(authority.server()) as made:
        made.answers[""] = ok(b"", "Fedlite: 0.2.0 1", "Date: Mon, 01 Jan 2024 00:00:00 GMT")
        yield made


def look(there: Coordinator, authority: Authority, host: str = "127.0.0.1") -> Reach:
    return reach(host, there.port, authority.folder / "ca.crt", 3.0)


def ask(there: Coordinator, authority: Authority, host: str = "127.0.0.1") -> str:
    """Ask for messages as a site does; return what its operator reads, nothing when it is well."""
    site = Fleet(f"{host}:{there.port}", authority.pem.encode(), KEY)
    try:
        assert site.receive() is None
    except (Unreachable, Refused) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        site.close()
    return ""


def test_a_proxy_makes_a_tunnel_and_sees_nothing_else(
    there: Coordinator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as way:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{LOGIN}@127.0.0.1:{way.port}")
        found = look(there, authority)
        assert (found.failed, found.why) == ("", "") and found.skew and found.skew > 10**7
        assert found.release is not None and found.release.version == "0.2.0"
        assert ask(there, authority) == ""
        assert len(way.asked) == 2 and len(there.asked) == 2
        for head in way.asked:
            assert head.startswith(f"CONNECT 127.0.0.1:{there.port} HTTP/1.1\r\n".encode())
            assert b64encode(b"me:s3cret@") in head
        # Nothing is asked of it for those that it is not for.
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert look(there, authority).failed == ask(there, authority) == ""
        assert len(way.asked) == 2


@pytest.mark.parametrize(
    ("status", "text"),
    [(407, "wants a login; set HTTPS_PROXY"), (403, r"HTTP 403\); ask its operator to allow")],
)
def test_a_proxy_that_does_not_want(
    there: Coordinator,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    text: str,
) -> None:
    with proxy(status) as way:
        monkeypatch.setenv("https_proxy", f"http://{LOGIN}@127.0.0.1:{way.port}")
        found, told = look(there, authority), ask(there, authority)
        for said in (found.why, told):
            assert f"the proxy 127.0.0.1:{way.port} " in said and text.replace("\\", "") in said
            assert "s3cret" not in said and LOGIN not in said
    assert found.failed == "proxy" and told.startswith("Unreachable")
    assert there.asked == []


def test_a_proxy_that_opens_tls_is_told_as_such(
    there: Coordinator, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    with proxy(opens=Authority(tmp_path / "mine", "the firm's").server()) as way:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{way.port}")
        found, told = look(there, authority), ask(there, authority)
    for said in (found.why, told):
        assert f"the proxy 127.0.0.1:{way.port} may open TLS; ask its operator" in said
    assert found.failed == "tls" and told.startswith("Refused")
    assert there.asked == []


def test_a_proxy_that_is_not_there_or_is_none(
    there: Coordinator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://{LOGIN}@127.0.0.1:{port}")
    found, told = look(there, authority), ask(there, authority)
    for said in (found.why, told):
        assert f"the proxy 127.0.0.1:{port} cannot be reached" in said and "NO_PROXY" in said
        assert "s3cret" not in said
    assert found.failed == "tcp"
    monkeypatch.setenv("HTTPS_PROXY", f"http://{LOGIN}@no-such-proxy.invalid:1")
    found = look(there, authority)
    assert found.failed == "name" and "the proxy no-such-proxy.invalid:1" in found.why
    assert "the proxy no-such-proxy.invalid:1 cannot be reached" in ask(there, authority)
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://{LOGIN}@127.0.0.1:1")
    assert look(there, authority).failed == "proxy"
    with pytest.raises(ValueError, match="HTTPS_PROXY: must be http://HOST:PORT"):
        ask(there, authority)


def test_the_proxy_looks_the_name_up(
    there: Coordinator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only a proxy leads out, names of the world often do not resolve inside."""
    with proxy(502) as way:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{way.port}")
        found = reach("fl.no-such-host.invalid", 443, authority.folder / "ca.crt", 3.0)
    assert found.failed == "proxy" and "HTTP 502" in found.why
    assert way.asked[0].startswith(b"CONNECT fl.no-such-host.invalid:443 ")


@pytest.mark.long
def test_doctor_waits_for_nobody_who_sends_byte_by_byte(
    there: Coordinator, authority: Authority
) -> None:
    def slowly(send: object) -> None:
        for _ in range(100):
            send(b"H")  # type: ignore[operator]
            time.sleep(0.1)

    there.answers[""] = slowly
    started = time.monotonic()
    found = reach("127.0.0.1", there.port, authority.folder / "ca.crt", 0.5)
    assert found.failed == "http" and time.monotonic() - started < 4


def test_an_address_of_ipv6(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with coordinator(authority.server(address="::1"), "::1") as there:
        assert ask(there, authority, "[::1]") == ""
        assert look(there, authority, "::1").failed == ""
        with proxy() as way:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{way.port}")
            assert ask(there, authority, "[::1]") == ""
            assert look(there, authority, "::1").failed == ""
            assert way.asked[0].startswith(f"CONNECT [::1]:{there.port} ".encode())
            monkeypatch.setenv("NO_PROXY", "::1")
            assert look(there, authority, "::1").failed == ask(there, authority, "[::1]") == ""
            assert len(way.asked) == 2
