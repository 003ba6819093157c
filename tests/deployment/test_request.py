"""Requests: every key must have signed, and nothing may have changed on the way.

Covers fedlite/identity/nodekey.py.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedlite.deployment.request import Request
from fedlite.identity import keys, nodekey
from fedlite.identity.canonical import canonical
from fedlite.identity.keys import KeyFileError

NODE, OLD = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
LEDGER = ed25519.Ed25519PrivateKey.generate()
PRINT = ":".join(["AB"] * 32)
JOIN = Request("site-01", nodekey.public(NODE), keys.public_hex(LEDGER), PRINT, "0.1.0")
ROTATE = replace(JOIN, previous_node_key=nodekey.public(OLD), protocol="1-2")


def test_there_and_back() -> None:
    assert Request.decode(JOIN.encode(NODE, LEDGER)) == JOIN
    assert Request.decode(ROTATE.encode(NODE, LEDGER, OLD)) == ROTATE


def test_no_field_can_be_changed_on_the_way() -> None:
    said = json.loads(ROTATE.encode(NODE, LEDGER, OLD))
    stranger = nodekey.public(ec.generate_private_key(ec.SECP384R1()))
    others = {
        "site": "site-02",
        "node_key": stranger,
        "ledger_key": "cd" * 32,
        "invitation": PRINT.replace("AB", "CD"),
        "fedlite": "0.1.1",
        "previous_node_key": stranger,
        "protocol": "1",
    }
    assert set(said) == {*others, "kind", "version"} | {
        name for name in said if "signature" in name
    }
    for field, value in others.items():
        with pytest.raises(ValueError, match="does not verify"):
            Request.decode(json.dumps(said | {field: value}).encode())


def test_what_the_first_release_wrote_is_still_a_request() -> None:
    """It did not say what it speaks, and signed without saying so."""
    texts = {k: v for k, v in asdict(JOIN).items() if k != "protocol"}
    signed = b"fedlite-request-v1\n" + canonical(texts)
    old = {
        "kind": "fedlite-request",
        "version": 1,
        **texts,
        "node_signature": nodekey.sign(NODE, signed),
        "ledger_signature": keys.sign(LEDGER, signed),
        "previous_signature": "",
    }
    assert Request.decode(json.dumps(old).encode()) == JOIN
    # What was said cannot be taken away.
    told = json.loads(ROTATE.encode(NODE, LEDGER, OLD))
    del told["protocol"]
    with pytest.raises(ValueError, match="does not verify"):
        Request.decode(json.dumps(told).encode())


def test_every_signature_counts() -> None:
    joined, rotated = (
        json.loads(data) for data in (JOIN.encode(NODE, LEDGER), ROTATE.encode(NODE, LEDGER, OLD))
    )
    for name in ("node_signature", "ledger_signature", "previous_signature"):
        for wrong in ("", "zz", joined["node_signature"]):
            with pytest.raises(ValueError, match=f"^{name}: does not verify"):
                Request.decode(json.dumps(rotated | {name: wrong}).encode())
    # A join has no previous key, so nothing may stand where it would sign.
    with pytest.raises(ValueError, match="previous_signature"):
        Request.decode(json.dumps(joined | {"previous_signature": "00"}).encode())


def test_only_the_named_keys_sign() -> None:
    for wrong in ((OLD, LEDGER, None), (NODE, LEDGER, OLD)):
        with pytest.raises(ValueError, match="keys: must be those"):
            JOIN.encode(*wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", ".hidden"),
        ("node_key", "ssh-ed25519 AAAA"),
        ("node_key", nodekey.public(NODE) + " a comment"),
        ("node_key", nodekey.public(ec.generate_private_key(ec.SECP256R1()))),
        ("ledger_key", "AB" * 32),
        ("invitation", "AB"),
        ("fedlite", "x" * 65),
        ("previous_node_key", nodekey.public(NODE)),
    ],
)
def test_wrong_fields_are_named(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        replace(JOIN, **{field: value})


def test_the_node_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.pem"
    line = nodekey.public(nodekey.load_or_generate(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert nodekey.public(nodekey.load_or_generate(path)) == line
    if shutil.which("ssh-keygen"):
        public = tmp_path / "node.pub"
        public.write_text(line + "\n")
        said = subprocess.run(
            ["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True
        )
        assert said.stdout.split()[:2] == ["384", nodekey.fingerprint(line)]
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        nodekey.load(path)
    keys.generate(tmp_path / "ledger.pem")
    with pytest.raises(KeyFileError, match="ECDSA key on P-384"):
        nodekey.load(tmp_path / "ledger.pem")
