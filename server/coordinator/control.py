"""Flower's Control API: the only module that knows how the SuperLink is told what to do.

It has no authentication of its own: `warden` stands before it and wants to be shown a secret.
Everything imported from `flwr` below is private to Flower 1.41, which the project pins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

from fedlite.settings import Value
from server.coordinator import secret
from server.coordinator.folder import Coordinator
from server.coordinator.launcher import Shown

Answer = TypeVar("Answer")


class Control:
    """A connection to this coordinator's SuperLink; nothing is sent before the first call.

    Every call raises ConnectionError when the coordinator does not run, RuntimeError when Flower
    refuses.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        """Prepare the connection; raises ValueError when the secret cannot be read."""
        shown = Shown(secret.read(coordinator.control_secret))
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{coordinator.settings.superlink_port}",
            insecure=False,
            root_certificates=coordinator.ca_cert.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), shown],
        )

    def register(self, public_key: str | bytes, name: str) -> int:
        """Let the holder of a public key (OpenSSH) connect; return its node's number."""
        data = public_key.encode("ascii") if isinstance(public_key, str) else public_key
        pem = load_ssh_public_key(data).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        request = RegisterNodeRequest(public_key=pem, name=name)
        return int(_call(self._client.RegisterNode, request).node_id)

    def unregister(self, node_id: int) -> None:
        """Never let this node connect again."""
        _call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[dict[str, Any]]:
        """Return every node: node_id, public_key (PEM), name, status ("online" or another)."""
        answer = _call(self._client.ListNodes, ListNodesRequest())
        return [
            {
                "node_id": int(node.node_id),
                "public_key": bytes(node.public_key),
                "name": str(node.name),
                "status": str(node.status),
            }
            for node in answer.nodes_info
        ]

    def start_run(self, fab: bytes, run_config: Mapping[str, Value]) -> int:
        """Start a bundle with settings beside it; return Flower's number of the run."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})),
            override_config=user_config_to_proto(dict(run_config)),
        )
        answer = _call(self._client.StartRun, request)
        if not answer.HasField("run_id"):
            raise RuntimeError("Flower has not started the run, and did not say why; see logs/")
        return int(answer.run_id)

    def runs(self) -> dict[int, str]:
        """Return the status of every run, for example "running" or "finished:completed"."""
        answer = _call(self._client.ListRuns, ListRunsRequest())
        return {
            int(number): ":".join(
                part for part in (run.status.status, run.status.sub_status) if part
            )
            for number, run in answer.run_dict.items()
        }

    def stop_run(self, run_id: int) -> None:
        """End a run."""
        if not _call(self._client.StopRun, StopRunRequest(run_id=run_id)).success:
            raise RuntimeError(f"Flower could not stop run {run_id}; see logs/")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _call(method: Callable[[Any], Answer], request: Any) -> Answer:
    try:
        return method(request)
    except httpx.RequestError as error:
        raise ConnectionError(
            f"the SuperLink does not answer ({error}); is the coordinator running? fedlite server "
            "start"
        ) from None
    except httpx.HTTPStatusError as error:
        told = FlowerError.from_json(error.response.text)
        why = str(told.message if told else error)
        raise RuntimeError(f"Flower refuses: {why}; see the coordinator's logs/") from None
