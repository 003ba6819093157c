"""Approving, changing keys, revoking: repeated, interrupted, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

import fedlite
from fedlite.deployment import journal
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.request import Request
from fedlite.identity import keys, nodekey
from server.coordinator import enrolment
from server.coordinator.enrolment import Declined, Question, approve, load, revoke, sites


class Crash(Exception):
    """The machine is gone."""


@dataclass
class SuperLink:
    """Flower's SuperLink as it was found: a public key is registered once and for ever."""

    known: list[dict[str, Any]] = field(default_factory=list)
    crash: str = ""

    def register(self, public_key: bytes | str, name: str, /) -> int:
        line = public_key if isinstance(public_key, str) else public_key.decode()
        pem = load_ssh_public_key(line.encode()).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        if any(node["public_key"] == pem for node in self.known):
            raise ValueError("Public key already in use.")
        number = 2**63 + len(self.known)
        self.known.append({"node_id": number, "public_key": pem, "status": "registered"})
        self._maybe_crash("register")
        return number

    def unregister(self, node_id: int, /) -> None:
        self._maybe_crash("unregister")
        (node,) = (node for node in self.known if node["node_id"] == node_id)
        assert node["status"] != "unregistered"
        node["status"] = "unregistered"

    def nodes(self) -> list[dict[str, Any]]:
        return [dict(node) for node in self.known]

    def states(self) -> list[str]:
        return [node["status"] for node in self.known]

    def _maybe_crash(self, where: str) -> None:
        if self.crash == where:
            self.crash = ""
            raise Crash


@dataclass(frozen=True)
class Coordinator:
    path: Path


@dataclass
class Partner:
    """A site with its keys."""

    name: str
    invitation: str
    folder: Path
    node: nodekey.NodeKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    ledger: keys.Key = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    def request(self, **fields: str) -> Path:
        said = Request(
            self.name,
            nodekey.public(self.node),
            keys.public_hex(self.ledger),
            self.invitation,
            fedlite.__version__,
        )
        path = self.folder / f"{self.name}-{len(list(self.folder.iterdir()))}.json"
        path.write_bytes(replace(said, **fields).encode(self.node, self.ledger))
        return path

    def rotate(self) -> Path:
        old, self.node = self.node, ec.generate_private_key(ec.SECP384R1())
        said = Request(
            self.name,
            nodekey.public(self.node),
            keys.public_hex(self.ledger),
            self.invitation,
            fedlite.__version__,
            nodekey.public(old),
        )
        path = self.folder / f"{self.name}-{len(list(self.folder.iterdir()))}.json"
        path.write_bytes(said.encode(self.node, self.ledger, old))
        return path


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    now = datetime.now(UTC)
    pem = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    folder = tmp_path / "coord"
    folder.mkdir()
    made = Invitation("c", "localhost:443", pem, "ab" * 32, fedlite.__version__, "default")
    (folder / "invitation.json").write_bytes(made.encode())
    return Coordinator(folder)


@pytest.fixture
def partner(coordinator: Coordinator, tmp_path: Path) -> Callable[[str], Partner]:
    invitation = Invitation.decode((coordinator.path / "invitation.json").read_bytes())
    mail = tmp_path / "mail"
    mail.mkdir()
    return lambda name: Partner(name, invitation.fingerprint, mail)


def yes(question: Question) -> bool:
    return True


def never(question: Question) -> bool:
    pytest.fail(f"asked: {question}")


def actions(coordinator: Coordinator) -> list[str]:
    return [line["action"] for line in journal.read(coordinator.path / "audit")]


def test_approve_shows_registers_and_writes(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    one, link, asked = partner("site-01"), SuperLink(), []
    request = one.request()

    def confirm(question: Question) -> bool:
        asked.append(question)
        return True

    name, site = approve(coordinator, request, link, confirm)
    public = nodekey.public(one.node)
    ledger = keys.public_hex(one.ledger)
    assert asked == [Question("site-01", nodekey.fingerprint(public), ledger)]
    written = json.loads((coordinator.path / "sites.json").read_text())
    assert written == {
        "site-01": {
            "node_id": 2**63,
            "node_key": public,
            "ledger_key": ledger,
            "approved": site.approved,
            "revoked": False,
            "groups": [],
        }
    }
    # Again: nobody is asked, nothing changes.
    assert approve(coordinator, request, link, never) == (name, site)
    assert link.states() == ["registered"] and actions(coordinator) == ["approve"]


def test_a_no_changes_nothing(coordinator: Coordinator, partner: Callable[[str], Partner]) -> None:
    link = SuperLink()
    with pytest.raises(Declined):
        approve(coordinator, partner("s").request(), link, lambda question: False)
    assert load(coordinator.path) == {} and link.known == []
    assert actions(coordinator) == ["refuse"]


def test_a_crash_after_registering_is_completed(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link, request = SuperLink(crash="register"), partner("s").request()
    with pytest.raises(Crash):
        approve(coordinator, request, link, yes)
    # The key can connect, and no run uses it: nobody has approved a site.
    assert load(coordinator.path) == {} and link.states() == ["registered"]
    approve(coordinator, request, link, yes)
    assert load(coordinator.path)["s"].node_id == 2**63 and len(link.known) == 1


def test_two_sites_with_one_name(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link = SuperLink()
    approve(coordinator, partner("s").request(), link, yes)
    before = (coordinator.path / "sites.json").read_bytes()
    with pytest.raises(ValueError, match="two sites with one name"):
        approve(coordinator, partner("s").request(), link, never)
    # A stranger's change of key is signed by the stranger's old key, not by the site's.
    with pytest.raises(ValueError, match="two sites with one name"):
        approve(coordinator, partner("s").rotate(), link, never)
    with pytest.raises(ValueError, match="no site 'new' whose key"):
        approve(coordinator, partner("new").rotate(), link, never)
    assert (coordinator.path / "sites.json").read_bytes() == before
    assert link.states() == ["registered"]
    assert actions(coordinator) == ["approve", "refuse", "refuse", "refuse"]


def test_every_site_has_its_own_keys(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link, one, two = SuperLink(), partner("one"), partner("two")
    approve(coordinator, one.request(), link, yes)
    two.node = one.node
    with pytest.raises(ValueError, match="node_key: is that of 'one'"):
        approve(coordinator, two.request(), link, never)
    two = replace(partner("two"), ledger=one.ledger)
    with pytest.raises(ValueError, match="ledger_key: is that of 'one'"):
        approve(coordinator, two.request(), link, never)


def test_a_change_of_key(coordinator: Coordinator, partner: Callable[[str], Partner]) -> None:
    link, one, asked = SuperLink(), partner("s"), []
    first = one.request()
    approve(coordinator, first, link, yes)
    old = nodekey.fingerprint(nodekey.public(one.node))
    request = one.rotate()

    def confirm(question: Question) -> bool:
        asked.append(question)
        return True

    approve(coordinator, request, link, confirm)
    assert asked[0].notes == (f"node key changes from {old}",)
    assert link.states() == ["unregistered", "registered"]
    assert load(coordinator.path)["s"].node_key == nodekey.public(one.node)
    # The old request, found in an old mail, does not bring the old key back.
    with pytest.raises(ValueError, match="two sites with one name"):
        approve(coordinator, first, link, never)


@pytest.mark.parametrize("crash", ["register", "unregister"])
def test_an_interrupted_change_of_key_is_completed(
    coordinator: Coordinator, partner: Callable[[str], Partner], crash: str
) -> None:
    link, one = SuperLink(), partner("s")
    approve(coordinator, one.request(), link, yes)
    request, link.crash = one.rotate(), crash
    with pytest.raises(Crash):
        approve(coordinator, request, link, yes)
    # Whichever key sites.json names can connect.
    named = load(coordinator.path)["s"]
    assert link.states()[named.node_id - 2**63] == "registered"
    approve(coordinator, request, link, yes)
    assert link.states() == ["unregistered", "registered"]
    assert load(coordinator.path)["s"].node_key == nodekey.public(one.node)


def test_nobody_takes_another_sites_node_away(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link, victim, thief = SuperLink(), partner("victim"), partner("thief")
    approve(coordinator, victim.request(), link, yes)
    approve(coordinator, thief.request(), link, yes)
    # Even with the victim's key in hand: its own name must be the one whose key changes.
    said = Request.decode(thief.request().read_bytes())
    said = replace(said, previous_node_key=nodekey.public(victim.node))
    path = thief.folder / "theft.json"
    path.write_bytes(said.encode(thief.node, thief.ledger, victim.node))
    approve(coordinator, path, link, yes)
    assert link.states() == ["registered", "registered"]


def test_revoking_and_coming_back(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link, one = SuperLink(crash="unregister"), partner("s")
    request = one.request()
    approve(coordinator, request, link, yes)
    with pytest.raises(Crash):
        revoke(coordinator, "s", link)
    # No run uses it any more, though its key is still known.
    assert load(coordinator.path)["s"].revoked and link.states() == ["registered"]
    revoke(coordinator, "s", link)
    revoke(coordinator, "s", link)
    assert link.states() == ["unregistered"] and actions(coordinator) == ["approve", "revoke"]
    with pytest.raises(ValueError, match="was revoked; approve it anew with --again"):
        approve(coordinator, request, link, never)
    with pytest.raises(ValueError, match="rotate-key HOME"):
        approve(coordinator, request, link, never, again=True)
    _, site = approve(coordinator, one.rotate(), link, yes, again=True)
    assert not site.revoked and link.states() == ["unregistered", "registered"]
    with pytest.raises(ValueError, match="has no site 'x'; those there: s"):
        revoke(coordinator, "x", link)


def test_a_site_that_lost_its_keys_comes_back_by_revoking(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    link, asked = SuperLink(), []
    approve(coordinator, partner("s").request(), link, yes)
    revoke(coordinator, "s", link)

    def confirm(question: Question) -> bool:
        asked.append(question.notes)
        return True

    approve(coordinator, partner("s").request(), link, confirm, again=True)
    assert asked[0][0] == "was revoked" and "ledger key changes" in asked[0][2]


def test_other_invitations_and_releases(
    coordinator: Coordinator, partner: Callable[[str], Partner]
) -> None:
    one, link = partner("s"), SuperLink()
    with pytest.raises(ValueError, match="invitation: must be that of this coordinator"):
        approve(coordinator, one.request(invitation=":".join(["AB"] * 32)), link, never)
    with pytest.raises(ValueError, match=r"^s: protocol: fedlite 99\.0\.0 there speaks 2"):
        approve(coordinator, one.request(fedlite="99.0.0", protocol="2"), link, never)
    (one.folder / "x.json").write_text("{}")
    for name, text in (("x.json", "kind: must be"), ("none.json", "no such file")):
        with pytest.raises(ValueError, match=text):
            approve(coordinator, one.folder / name, link, never)
    assert link.known == []


def test_who_is_there(coordinator: Coordinator, partner: Callable[[str], Partner]) -> None:
    link = SuperLink()
    for name in ("a", "b", "c", "d"):
        approve(coordinator, partner(name).request(), link, yes)
    revoke(coordinator, "b", link)
    link.known[2]["status"] = "online"
    del link.known[3]
    assert {row["name"]: row["state"] for row in sites(coordinator, link)} == {
        "a": "offline",
        "b": "revoked",
        "c": "online",
        "d": "unregistered",
    }
    assert [row["state"] for row in sites(coordinator, None)] == [
        "unknown",
        "revoked",
        "unknown",
        "unknown",
    ]


def test_one_command_at_a_time_changes_the_sites(
    coordinator: Coordinator, partner: Callable[[str], Partner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "_LOCK_SECONDS", 0.2)
    link = SuperLink()

    def meanwhile(question: Question) -> bool:
        with pytest.raises(ValueError, match="answer its question"):
            revoke(coordinator, "s", link)
        return True

    approve(coordinator, partner("s").request(), link, meanwhile)
    assert revoke(coordinator, "s", link).revoked


def test_a_damaged_list_is_no_empty_list(coordinator: Coordinator) -> None:
    assert load(coordinator.path) == {}
    (coordinator.path / "sites.json").write_text('{"s": {"node_id": 1}}')
    with pytest.raises(ValueError, match="restore it from a copy"):
        load(coordinator.path)
    with pytest.raises(ValueError, match="fedlite server init"):
        revoke(Coordinator(coordinator.path / "none"), "s", SuperLink())
    assert enrolment.SITES == "sites.json"
