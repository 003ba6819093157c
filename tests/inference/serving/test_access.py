"""Who may ask for what, over which line, how often, and what is written down of it.

Covers fedlite/inference/serving/tokens.py, fedlite/inference/serving/gate.py,
fedlite/inference/serving/doors.py, fedlite/inference/serving/calling.py,
fedlite/inference/serving/keeping.py, fedlite/commands/operate.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import protocol, tokens
from fedlite.inference.serving.calling import call
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.keeping import Keeping
from tests.inference.serving.conftest import Live, asked

pytestmark = pytest.mark.long

Start = Callable[..., Live]
X = np.full((2, 1, 8, 8), 0.5, np.float32)


def code(live: Live, method: str, **how: Any) -> str:
    """Return by which code one call ends."""
    try:
        live.ask(method, asked(X) if method == "ModelInfer" else None, **how)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


@pytest.fixture
def known(file: Path) -> dict[str, str]:
    """Return a token of each role."""
    return {role: tokens.add(file, f"a-{role}", role, 30) for role in tokens.ROLES}


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in folder.glob("requests-*.jsonl") for line in file.open()]
    return [json.loads(line) for line in lines]


METHODS = [*protocol.methods(protocol.INFERENCE), *protocol.methods(protocol.OPERATION)]
CLIENT = {"ModelInfer", "Feedback"}
OPERATOR = {"Status", "Reset", "Withdraw"}
AUDITOR = {"Status", "Log"}
OPEN = {"ServerLive", "ServerReady"}
ALL = OPEN | {"ModelReady", "ModelMetadata", "ServerMetadata"}


def test_each_role_may_do_its_own_and_nothing_else(
    start: Start, bundle: Bundle, file: Path, known: dict[str, str], tmp_path: Path
) -> None:
    live = start(bundle, door=Door(port=0, tokens=file), keep=tmp_path / "kept")
    for role, own in (("client", CLIENT), ("operator", OPERATOR), ("auditor", AUDITOR)):
        for method in METHODS:
            refused = code(live, method, token=known[role]) == "PERMISSION_DENIED"
            assert refused == (method not in own | ALL), (role, method)
    for token in ("", "x", known["client"][:-1], known["client"] + "x", "x" * 4000, "é"):
        for method in METHODS:
            if token.isascii():
                wanted = method not in OPEN
                assert (code(live, method, token=token) == "UNAUTHENTICATED") == wanted, method
    # A token is written down nowhere, and neither are inputs.
    kept = b"".join(one.read_bytes() for one in (tmp_path / "kept").iterdir())
    told = "\n".join(live.said).encode() + kept + file.read_bytes()
    assert not any(token.encode() in told for token in known.values())
    rows = logged(tmp_path / "kept")
    (answered,) = [row for row in rows if row["code"] == "OK" and "rows" in row]
    assert answered["client"] == "a-client" and answered["rows"] == 2 and answered["ms"] > 0
    assert set(answered) == {"time", "client", "id", "version", "rows", "early", "ms", "code"}
    lines = live.ask("Log", token=known["auditor"], last=1).lines
    assert len(lines) == 1 and all(json.loads(line) in logged(tmp_path / "kept") for line in lines)


def test_a_token_ends_with_its_time_or_its_holder(
    start: Start, bundle: Bundle, file: Path, known: dict[str, str]
) -> None:
    live = start(bundle, door=Door(port=0, tokens=file))
    late = tokens.add(file, "late", "client", 1)
    assert code(live, "ModelInfer", token=late) == "OK", "a file that changes is read again"
    text = file.read_text()
    until = tomllib.loads(text)["tokens"]["late"]["expires"]
    file.write_text(text.replace(until, "2020-01-01T00:00:00Z"))
    assert code(live, "ModelInfer", token=late) == "UNAUTHENTICATED"
    assert code(live, "ModelInfer", token=known["client"]) == "OK"
    tokens.revoke(file, "a-client")
    assert code(live, "ModelInfer", token=known["client"]) == "UNAUTHENTICATED"
    # Where nobody can tell who may, nobody may.
    for spoil in (lambda: file.write_text("nonsense"), file.unlink):
        spoil()
        assert code(live, "Status", token=known["operator"]) == "UNAUTHENTICATED"


def test_a_file_holds_hashes_and_is_its_owners(file: Path, known: dict[str, str]) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    told = tomllib.loads(file.read_text())["tokens"]["a-client"]
    assert told["sha256"] == hashlib.sha256(known["client"].encode()).hexdigest()
    with pytest.raises(ValueError, match="--again gives it another token"):
        tokens.add(file, "a-client", "client", 30)
    other = tokens.add(file, "a-client", "client", 30, again=True)
    held = tokens.Tokens(file)
    assert held.who(known["client"]) is None
    found = held.who(other)
    assert found is not None and found[0] == "a-client"
    file.chmod(0o620)
    with pytest.raises(ValueError, match="must be written by its owner alone; chmod 600"):
        tokens.read(file)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = 1", "must hold tables"),
        ("tokens = 1", "must hold tables"),
        ("[tokens]\na = 1", "must be a table with a name"),
        ('[tokens."a b"]\nrole = "client"', "must be a table with a name"),
        ("[tokens.a]", r"tokens\.a\.role: must be there"),
        ('[tokens.a]\nrole = "root"', r"tokens\.a\.role: must be one of client"),
        ('[tokens.a]\nsha256 = "A"', "must be 64 lower-case hex digits"),
        ('[tokens.a]\nexpires = "never"', "must be a time such as"),
        ('[tokens.a]\nnote = "x"', "no such key"),
    ],
)
def test_a_file_that_is_none_is_refused(file: Path, text: str, rule: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ValueError, match=rule):
        tokens.read(file)


def test_nobody_asks_more_often_than_he_may(
    start: Start, bundle: Bundle, file: Path, known: dict[str, str], tmp_path: Path
) -> None:
    other = tokens.add(file, "other", "client", 1)
    live = start(bundle, door=Door(port=0, tokens=file), rate=2.0, keep=tmp_path / "kept")
    found = [code(live, "ModelMetadata", token=known["client"]) for _ in range(8)]
    assert "RESOURCE_EXHAUSTED" in found[2:] and found[0] != "RESOURCE_EXHAUSTED"
    assert code(live, "ModelInfer", token=other) == "OK", "each has a bucket of its own"
    assert code(live, "ServerLive") == "OK", "and probes have none"
    live.stop()
    assert live.service.figures.codes["RESOURCE_EXHAUSTED"] == found.count("RESOURCE_EXHAUSTED")


def pair(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    private.chmod(0o600)
    return cert, private


def test_over_tls_only_who_is_known_is_answered(
    start: Start, bundle: Bundle, file: Path, known: dict[str, str], tmp_path: Path
) -> None:
    cert, key = pair(tmp_path)
    live = start(bundle, door=Door(port=0, cert=cert, key=key, tokens=file))
    address = f"localhost:{live.address.rpartition(':')[2]}"
    told = json.loads(call(address, "Status", token=known["operator"], ca=cert).json)
    assert told["model"] == "routed" and told["versions"][0]["role"] == "current"
    with pytest.raises(RuntimeError, match="UNAUTHENTICATED: token: is of nobody here"):
        call(address, "Status", ca=cert)
    with pytest.raises(RuntimeError, match="UNAVAILABLE"):
        call(address, "Status", token=known["operator"])
    words = ["operate", "status", address, "--tls-ca", str(cert)]
    done = CliRunner().invoke(app, words, env={"FEDLITE_TOKEN": known["auditor"]})
    assert done.exit_code == 0 and json.loads(done.stdout)["ready"] is True
    done = CliRunner().invoke(app, words, env={"FEDLITE_TOKEN": known["client"]})
    assert done.exit_code == 1 and "Status: is for the role operator or auditor" in done.output
    with pytest.raises(ValueError, match="--tls-ca: must be given to send a token to example"):
        call("example.org:443", "Status", token="x")


def test_a_pair_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    cert, key = pair(tmp_path)
    (tmp_path / "other").mkdir()
    other = pair(tmp_path / "other")[1]
    server: Any = None
    with pytest.raises(ValueError, match="must be a certificate and its key in PEM"):
        Door(cert=cert, key=other).open(server)
    key.chmod(0o644)
    with pytest.raises(ValueError, match="must be closed to others; chmod 640"):
        Door(cert=cert, key=key).open(server)


def test_what_cannot_be_written_down_is_not_answered(
    start: Start, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start(bundle, keep=tmp_path / "kept")
    assert code(live, "ModelInfer") == "OK"
    keeping = live.service.keeping
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(keeping, "_handle", full)
    assert code(live, "ModelInfer") == "UNAVAILABLE"
    monkeypatch.undo()
    os.close(full)
    assert code(live, "ModelInfer") == "OK"


def test_a_folder_is_of_one_server_and_its_state_is_believed_only_whole(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    one = Keeping(folder)
    with pytest.raises(ValueError, match="is another server's"):
        Keeping(folder)
    one.remember(deep=["a"])
    one.close()
    again = Keeping(folder)
    assert again.state == {"deep": ["a"], "withdrawn": []}
    again.close()
    (folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match="so nobody knows which version must not answer"):
        Keeping(folder)


def test_old_days_of_the_log_go_and_the_last_lines_are_found_across_days(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "requests-2020-01-01.jsonl").write_text("{}\n")
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    (folder / f"requests-{yesterday:%Y-%m-%d}.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    keeping = Keeping(folder)
    keeping.request(client="c", code="OK")
    assert not (folder / "requests-2020-01-01.jsonl").exists()
    found = [json.loads(line) for line in keeping.last(2)]
    assert found[0] == {"a": 2} and found[1]["client"] == "c"
    keeping.close()


def test_tokens_are_made_listed_and_taken_back_by_commands(file: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["operate", *words])

    made = run("token", str(file), "ward-3", "--role", "client", "--days", "2")
    assert made.exit_code == 0 and tokens.Tokens(file).who(made.stdout.strip()) is not None
    told = json.loads(run("tokens", str(file), "--json").stdout)["tokens"]
    assert told["ward-3"]["role"] == "client" and "sha256" not in told["ward-3"]
    assert "ward-3" in run("tokens", str(file)).stdout
    assert run("revoke", str(file), "ward-3").exit_code == 0
    for words, rule in (
        (("revoke", str(file), "ward-3"), "there is nobody"),
        (("token", str(file), "a b"), "NAME: must be of 1 to 64"),
        (("token", str(file), "a", "--role", "root"), "--role: must be one of"),
        (("token", str(file), "a", "--days", "0"), "--days: must be from 1"),
        (("log", "127.0.0.1:1", "--last", "0"), "--last: must be from 1"),
    ):
        done = run(*words)
        assert done.exit_code == 2 and rule in " ".join(done.output.split())
    assert run("status", "127.0.0.1:1").exit_code == 1
