from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedlite.deployment import journal
from fedlite.deployment.invitation import Invitation
from fedlite.identity import keys
from server.coordinator import authority, gateway
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "c", "study", "fl.example.org:8443")


def test_a_new_folder_is_complete_and_closed_to_others(made: Coordinator) -> None:
    assert Coordinator.open(made.path) == made
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (made.path, *made.path.rglob("*"))}
    for path in (made.ca_key, made.server_key, made.witness_key):
        assert modes[path] == 0o600
    assert modes[made.path] == modes[made.ca_key.parent] == 0o700
    invitation = Invitation.decode(made.invitation.read_bytes())
    assert invitation.address == "fl.example.org:8443" and invitation.name == "study"
    assert invitation.witness == keys.public_hex(keys.load(made.witness_key))
    assert invitation.ca_pem == made.ca_cert.read_text()
    assert [line["action"] for line in journal.read(made.audit)] == ["init"]
    assert b"PRIVATE" not in made.invitation.read_bytes()


def test_nothing_is_ever_overwritten(made: Coordinator, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="never overwritten"):
        init(made.path, "study", "fl.example.org:8443")
    assert before == {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="empty folder"):
        init(tmp_path / "full", "study", "fl.example.org:8443")


@pytest.mark.parametrize("step", ["authority.ensure", "gateway.write", "gateway.write_services"])
def test_a_half_written_folder_is_completed_with_its_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    module = {"authority": authority, "gateway": gateway}[step.split(".")[0]]

    def crash(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(module, step.split(".")[1], crash)
        init(tmp_path / "c", "study", "h:1")
    with pytest.raises(ValueError, match="fedlite server init"):
        Coordinator.open(tmp_path / "c")
    keys_before = {p: p.read_bytes() for p in (tmp_path / "c").rglob("*.key")}
    with pytest.raises(ValueError, match="begun with other settings"):
        init(tmp_path / "c", "study", "h:2")
    init(tmp_path / "c", "study", "h:1")
    assert {p: p.read_bytes() for p in keys_before} == keys_before
    Coordinator.open(tmp_path / "c")


@pytest.mark.parametrize("name", ["ca_key", "server_key", "witness_key"])
def test_a_key_that_others_may_read_is_refused(made: Coordinator, name: str) -> None:
    path: Path = getattr(made, name)
    path.chmod(0o640)
    with pytest.raises(ValueError, match=f"chmod 600 {path}"):
        Coordinator.open(made.path)
    path.chmod(0o600)
    made.path.chmod(0o755)
    with pytest.raises(ValueError, match="chmod 700"):
        Coordinator.open(made.path)


def test_every_wrong_key_has_its_line(made: Coordinator) -> None:
    made.toml.write_text(
        '[coordinator]\nname = "a/b"\naddres = "h:1"\nport = "x"\nbind = "here"\n[more]\n'
    )
    with pytest.raises(ValueError, match="coordinator") as caught:
        Coordinator.open(made.path)
    told = str(caught.value).splitlines()
    assert len(told) == 6 and all(line.startswith(f"{made.toml}: ") for line in told)
    for part in ("name: must be", "did you mean address", "port: must be a", "bind", "[more]"):
        assert any(part in line for line in told)
    assert any("address: must be set" in line for line in told)


@pytest.mark.parametrize("path", ['a"b', "a$b", "a;b", "a%b", "a{b"])
def test_a_path_that_a_configuration_would_read_otherwise_is_refused(
    tmp_path: Path, path: str
) -> None:
    with pytest.raises(ValueError, match="name another folder"):
        init(tmp_path / path, "study", "h:1")
    assert not (tmp_path / path).exists()


def test_who_is_called_by_ipv6_listens_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'bind: must be an address of IPv6.* bind = "::"'):
        init(tmp_path / "c", "study", "[2001:db8::1]:8443", bind="0.0.0.0")
    made = init(tmp_path / "d", "study", "[2001:db8::1]:8443")
    assert made.settings.bind == "::"


def test_both_ports_may_not_be_the_same(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="superlink_port: must differ"):
        init(tmp_path / "c", "study", "h:9091")
