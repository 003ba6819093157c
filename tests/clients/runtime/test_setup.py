"""Making a site and joining: every step repeated, interrupted, and refused.

Covers clients/runtime/seats.py.
"""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import fedlite
from clients.runtime import seats, setup
from fedlite.commands.main import app
from fedlite.deployment import journal
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.request import Request
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.guard.register import Register
from fedlite.identity import keys, nodekey
from fedlite.identity.keys import KeyFileError

WITNESS = "ab" * 32


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", *map(str, arguments)])
    return result.exit_code, result.output


def invitation(name: str = "hospitals", days: int = 9, **fields: str) -> Invitation:
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    end = datetime.now(UTC) + timedelta(days=days)
    pem = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - timedelta(days=20))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    made = Invitation(name, "127.0.0.1:9", pem, WITNESS, fedlite.__version__, "default")
    return replace(made, **fields)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    setup.init(tmp_path / "home", "site-01", data=DataSet("digits", "digits"))
    return tmp_path / "home"


def invite(tmp_path: Path, one: Invitation) -> Path:
    path = tmp_path / f"{one.name}.json"
    path.write_bytes(one.encode())
    return path


def content(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_init_makes_all_and_called_again_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    words = ("init", home, "--name", "site-01", "--data", "digits", "--epsilon", 2)
    code, output = run(*words, "--json")
    assert code == 0, output
    made = json.loads(output)
    assert policy.load(home / "site.toml") == policy.SitePolicy(
        site="site-01", epsilon=2.0, data=(DataSet("digits", "digits"),)
    )
    for path in [home, *home.rglob("*")]:
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        elif path.parent.name == "keys":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert made["node_key"].startswith("ecdsa-sha2-nistp384 ")
    assert [line["action"] for line in journal.read(home / "audit")] == ["init"]
    before = content(home)
    assert run(*words)[0] == 0
    assert content(home) == before


def test_init_completes_what_a_crash_left(home: Path) -> None:
    before = content(home)
    (home / setup.UNIT).unlink()
    shutil.rmtree(home / "inflight")
    (home / "keys" / "data.secret").unlink()
    setup.init(home, "site-01")
    after = content(home)
    changed = {Path(path).name for path in before if after.get(path) != before[path]}
    assert changed == {"data.secret"} and set(after) == set(before)
    # The very first write was interrupted: a part of site.toml is all there is.
    fresh = home.parent / "fresh"
    fresh.mkdir()
    (fresh / ".site.toml.77.part").write_text("[si")
    setup.init(fresh, "site-02")
    assert policy.load(fresh / "site.toml").site == "site-02"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--name", "site-02"), "is of site 'site-01'"),
        (("--name", "site-01", "--epsilon", "9"), "budget.epsilon is 3, got --epsilon 9"),
        (("--name", "site-01", "--data", "heart-disease"), "has no [data.heart-disease]"),
        (("--name", ".x"), "1 to 64 printable"),
    ],
)
def test_init_never_changes_a_site(home: Path, words: tuple[str, ...], text: str) -> None:
    before = content(home)
    code, output = run("init", home, *words)
    assert code == 2 and text in output
    assert content(home) == before


def test_init_says_what_is_otherwise_in_a_table_that_is_there(tmp_path: Path) -> None:
    """A path with a slip of the pen is corrected by hand; the table need not be added."""
    home = tmp_path / "h"
    words = ("init", home, "--name", "h", "--data", "csv", "--target", "ill", "--path")
    run(*words, "own.cvs")
    code, output = run(*words, "own.csv")
    assert code == 2 and "data.csv.path is " in output and "own.cvs', got " in output


@pytest.mark.long
def test_init_refuses_other_folders_and_wrong_words(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    code, output = run("init", tmp_path / "home", "--name", "s")
    assert code == 2 and "'thesis.tex'" in output
    assert run("init", tmp_path / "n", "--name", "s", "--part", "x")[0] == 2
    assert run("init", tmp_path / "n", "--name", "s", "--data", "csv", "--target", "y")[0] == 2
    code, output = run("init", tmp_path / "m", "--name", "s", "--data", "d", "--path", "x.csv")
    assert code == 0 and "neither label column nor part was checked" in output
    # A data set that nobody knows leaves no site behind.
    code, output = run("init", tmp_path / "n", "--name", "s", "--data", "digitz")
    assert code == 2 and "--data: must be one of digits, " in output
    assert not (tmp_path / "n" / "site.toml").exists()
    assert run("init", tmp_path / "n", "--name", "s", "--data", "digits")[0] == 0


def test_a_key_in_use_is_never_made_anew(home: Path, tmp_path: Path) -> None:
    (home / "ledgers" / "digits.jsonl").write_text("")
    (home / "keys" / "ledger.pem").rename(tmp_path / "kept")
    code, output = run("init", home, "--name", "site-01")
    assert code == 2 and "restore it from a copy" in output
    (tmp_path / "kept").rename(home / "keys" / "ledger.pem")
    setup.join(home, invite(tmp_path, one := invitation()), fingerprint=one.fingerprint)
    (home / "keys" / "node.pem").unlink()
    with pytest.raises(ValueError, match="the coordinator knows it"):
        setup.init(home, "site-01")


def test_a_readable_key_is_refused(home: Path, tmp_path: Path) -> None:
    (home / "keys" / "node.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        setup.join(home, invite(tmp_path, one := invitation()), fingerprint=one.fingerprint)


def test_join_writes_a_request_that_verifies(home: Path, tmp_path: Path) -> None:
    one = invitation()
    path = invite(tmp_path, one)
    # As it is read out on the telephone.
    told = one.fingerprint.replace(":", " ").lower()
    code, output = run("join", home, path, "--fingerprint", told, "--json")
    assert code == 0, output
    assert json.loads(output)["warnings"] == []
    request = Request.decode((home / "request.json").read_bytes())
    assert request.site == "site-01" and request.invitation == one.fingerprint
    assert request.node_key == nodekey.public(nodekey.load(home / "keys" / "node.pem"))
    assert request.ledger_key == keys.public_hex(keys.load(home / "keys" / "ledger.pem"))
    assert seats.joined(home) == one
    assert (home / "ca.crt").read_text() == one.ca_pem
    assert policy.load(home / "site.toml").servers == (WITNESS,)
    text = (home / "site.toml").read_text()
    assert "# Public keys of the servers" in text and text.count("[servers]") == 1
    assert journal.read(home / "audit")[-1]["fingerprint"] == one.fingerprint
    assert run("join", home, path, "--fingerprint", told)[0] == 0


def test_join_needs_somebody_who_says_yes(home: Path, tmp_path: Path) -> None:
    one = invitation()
    path, before = invite(tmp_path, one), content(home)
    code, output = run("join", home, path)
    assert code == 2 and "--fingerprint: must be given" in output
    code, output = run("join", home, path, "--fingerprint", invitation().fingerprint)
    assert code == 2 and "must be that of the invitation" in output
    asked: list[Any] = []
    with pytest.raises(setup.Unconfirmed):
        setup.join(home, path, confirm=lambda shown: bool(asked.append(shown)))
    assert asked == [one]
    refused = [line["action"] for line in journal.read(home / "audit")]
    assert refused == ["init", "refuse", "refuse", "refuse"]
    audit = str(home / "audit")
    assert {p: c for p, c in content(home).items() if audit not in p} == {
        p: c for p, c in before.items() if audit not in p
    }
    assert setup.join(home, path, confirm=lambda shown: True).invitation == one


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (
            invitation(fedlite="99.1.0", protocol="7-8"),
            r"fedlite 99\.1\.0 there speaks 7-8, fedlite .* here 1; upgrade fedlite here",
        ),
        (invitation(days=-1), "is valid from"),
    ],
)
def test_join_refuses_what_cannot_work(
    home: Path, tmp_path: Path, one: Invitation, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    assert not (home / "coordinator.json").exists()


def test_another_coordinator_gets_a_seat_and_a_key_of_its_own(home: Path, tmp_path: Path) -> None:
    first, other = invitation(), invitation("The others", witness="cd" * 32)
    setup.join(home, invite(tmp_path, first), fingerprint=first.fingerprint)
    words = ("--fingerprint", other.fingerprint, "--json")
    code, output = run("join", home, invite(tmp_path, other), *words)
    told = json.loads(output)
    (seat,) = (home / "coordinators").iterdir()
    assert code == 0 and told["request"] == str(seat / "request.json") and not told["warnings"]
    asked = [Request.decode((place / "request.json").read_bytes()) for place in (home, seat)]
    # By a key that both knew, one could speak to the other as this site; the ledger's is its own.
    assert asked[0].node_key != asked[1].node_key and asked[0].ledger_key == asked[1].ledger_key
    assert policy.load(home / "site.toml").servers == (WITNESS, "cd" * 32)
    assert stat.S_IMODE((seat / "keys").stat().st_mode) == 0o700
    assert seats.every(home) == [home, seat] and seats.of(home, "The others") == seat
    assert seats.of(home, ".") == home and seats.of(home, f"coordinators/{seat.name}") == seat
    for wrong in ("", "nobody", str(tmp_path)):
        with pytest.raises(ValueError, match=r"'hospitals' .*'The others' "):
            seats.of(home, wrong)
    # Again: the same seat, the same key.
    setup.join(home, invite(tmp_path, other), fingerprint=other.fingerprint)
    again = Request.decode((seat / "request.json").read_bytes())
    assert again.node_key == asked[1].node_key and seats.every(home) == [home, seat]
    names = [one["name"] for one in json.loads(run("status", home, "--json")[1])["coordinators"]]
    assert names == ["hospitals", "The others"]


def test_the_unit_lets_the_site_write_where_the_machine_remembers_it(home: Path) -> None:
    register = Register.own().folder
    text = (home / setup.UNIT).read_text()
    assert register.is_dir() and f'ReadWritePaths="{home}" "-{register}"\n' in text
    assert f'Environment="FEDLITE_REGISTER={register}"\n' in text


def test_a_damaged_seat_takes_none_of_the_others_with_it(home: Path, tmp_path: Path) -> None:
    first, other = invitation(), invitation("The others")
    for one in (first, other):
        setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    seat = seats.known(home, other)
    (home / "coordinator.json").write_text("{")
    assert seat is not None and seats.of(home, seats.place(home, seat)) == seat
    assert seats.of(home, "The others") == seat and seats.of(home, ".") == home
    with pytest.raises(ValueError, match="--coordinator"):
        seats.of(home, "")
    told = json.loads(run("status", home, "--json")[1])["coordinators"]
    assert [one["name"] for one in told] == ["coordinator.json in . is damaged", "The others"]


def test_a_coordinator_that_looks_like_another_gets_no_seat_of_its(
    home: Path, tmp_path: Path
) -> None:
    """Two authorities with eight digits of their fingerprints in common are made in hours."""
    setup.join(home, invite(tmp_path, one := invitation()), fingerprint=one.fingerprint)
    alike = [
        SimpleNamespace(name="b", fingerprint="AB:AB:AB:AB" + end * 28) for end in (":0A", ":0B")
    ]
    places = {seats.free(home, two) for two in alike}  # type: ignore[arg-type]
    assert len(places) == 2


def test_a_coordinator_that_has_moved_keeps_its_seat(home: Path, tmp_path: Path) -> None:
    first = invitation()
    setup.join(home, invite(tmp_path, first), fingerprint=first.fingerprint)
    # The same coordinator at a new address.
    moved = replace(first, address="no-such-host.invalid:443", witness="cd" * 32)
    done = setup.join(home, invite(tmp_path, moved), fingerprint=first.fingerprint)
    assert seats.joined(home).address == "no-such-host.invalid:443"
    assert len(done.warnings) == 2 and "[servers] keys does not list" in done.warnings[0]
    assert policy.load(home / "site.toml").servers == (WITNESS,)


def test_changing_the_node_key(home: Path, tmp_path: Path) -> None:
    code, output = run("rotate-key", home)
    assert code == 2 and "has not joined" in output
    one = invitation()
    setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    old = nodekey.public(nodekey.load(home / "keys" / "node.pem"))
    assert "no change of key is under way" in run("rotate-key", home, "--finish")[1]
    assert run("rotate-key", home)[0] == 0
    first = Request.decode((home / "request.json").read_bytes())
    assert first.previous_node_key == old != first.node_key
    # Interrupted and called again: the same key, and the present one still in use.
    assert run("rotate-key", home)[0] == 0
    assert Request.decode((home / "request.json").read_bytes()) == first
    assert nodekey.public(nodekey.load(home / "keys" / "node.pem")) == old
    code, output = run("rotate-key", home, "--finish", "--json")
    assert json.loads(output)["node_key"] == nodekey.fingerprint(first.node_key)
    assert nodekey.public(nodekey.load(home / "keys" / "node.pem")) == first.node_key
    assert not (home / "keys" / "node.next.pem").exists()
    assert (home / "request.json").exists()
    said = [line["action"] for line in journal.read(home / "audit")]
    assert said == ["init", "join", "rotate", "rotate", "rotate-finish"]
