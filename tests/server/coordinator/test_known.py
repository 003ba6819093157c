from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]

from fedlite.identity import nodekey
from server.coordinator import enrolment, known
from server.coordinator.known import Sites, Unauthenticated


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return the headers of a request as Flower's own client signs it."""
    request = httpx.Request("POST", "https://h/v1/fleet/x")
    context = ProtobufRequestContext("x", Empty(), request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


def approve(folder: Path, **sites: tuple[ec.EllipticCurvePrivateKey, bool]) -> None:
    enrolment.save(
        folder,
        {
            name: enrolment.Site(1, nodekey.public(key), "00" * 32, "", revoked)
            for name, (key, revoked) in sites.items()
        },
    )


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def test_a_site_is_known_from_its_approval_to_its_revocation(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    sites = Sites(tmp_path)
    assert sites.signer(signed(key)) is None
    approve(tmp_path, a=(key, False))
    found = sites.signer(signed(key))
    assert found and (found.site, found.revoked) == ("a", False)
    following = ec.generate_private_key(ec.SECP384R1())
    approve(tmp_path, a=(following, False))
    assert sites.signer(signed(key)) is None and sites.signer(signed(following))
    approve(tmp_path, a=(following, True))
    found = sites.signer(signed(following))
    assert found and found.revoked


def test_a_list_that_was_damaged_by_hand_lets_nobody_in_and_nobody_out(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    approve(tmp_path, a=(key, False))
    sites = Sites(tmp_path)
    (tmp_path / enrolment.SITES).write_text("{")
    assert sites.signer(signed(key)) is not None
    with pytest.raises(ValueError, match="restore it from a copy"):
        Sites(tmp_path)


def test_what_is_not_signed_with_the_key_now_is_by_nobody(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    approve(tmp_path, a=(key, False))
    sites, good = Sites(tmp_path), signed(key)
    other = ec.generate_private_key(ec.SECP384R1())

    def at(minutes: float, by: ec.EllipticCurvePrivateKey = key) -> dict[str, str]:
        time = (now() + timedelta(minutes=minutes)).isoformat()
        signature = base64.b64encode(sign_message(by, time.encode())).decode()
        return good | {"flwr-timestamp": time, "flwr-signature": signature}

    assert sites.signer(at(-4.9)) and sites.signer(at(0.05))
    bad = [at(-5.2), at(0.2), at(0, other), at(0) | {"flwr-timestamp": now().isoformat()}]
    bad += [{name: value for name, value in good.items() if name != gone} for gone in good]
    bad += [good | {"flwr-signature": text} for text in ("", "=", "AAAA", "\u00fc")]
    bad += [good | {"flwr-timestamp": text} for text in ("", "now", "2026-01-01", "\u0661")]
    for headers in bad:
        with pytest.raises(Unauthenticated):
            sites.signer(headers)


def test_a_signature_is_worked_out_once_and_for_the_same_three_only(
    key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    plain = known.verify_signature

    def counted(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
        asked.append(message)
        return plain(key, message, signature)

    monkeypatch.setattr(known, "verify_signature", counted)
    other, signature = ec.generate_private_key(ec.SECP384R1()), sign_message(key, b"now")
    for _ in range(3):
        assert known.verified(key.public_key(), b"now", signature)
        assert not known.verified(key.public_key(), b"then", signature)
        assert not known.verified(other.public_key(), b"now", signature)
        assert not known.verified(key.public_key(), b"now", sign_message(other, b"now"))
    assert len(asked) == 2 + 1 + 3  # each signature of the last line is another
