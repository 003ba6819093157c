"""What an operator or an auditor asks a server, from another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from fedlite.inference.serving import protocol

_SECONDS = 10.0


def call(
    address: str, method: str, *, token: str = "", ca: Path | None = None, **fields: Any
) -> Any:
    """Return the response of one method of `fedlite.Operation`.

    address: HOST:PORT. token: sent where there is TLS, or to this machine alone. ca: the PEM file
    of who has signed the server's certificate; None: without TLS. fields: of the request.

    Raises ValueError where a token would go out without TLS, RuntimeError where the server refuses
    or cannot be reached.
    """
    host = address.rpartition(":")[0].strip("[]")
    if token and ca is None and host not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(
            f"--tls-ca: must be given to send a token to {host} (rule: others on the way would "
            "read it), got nothing; name the file of its certificate authority"
        )
    request, response = protocol.classes(protocol.OPERATION)[method]
    if ca is None:
        # A proxy that the environment names would read the token.
        channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()))
    sent = [("authorization", f"Bearer {token}")] if token else []
    with channel:
        ask = channel.unary_unary(
            f"/{protocol.OPERATION}/{method}", request.SerializeToString, response.FromString
        )
        try:
            return ask(request(**fields), timeout=_SECONDS, metadata=sent)
        except grpc.RpcError as error:
            code, text = error.code().name, error.details()
            raise RuntimeError(f"{address}: {code}: {text or 'no more is told'}") from None
