"""One authenticated connection to the coordinator: the only module that knows Flower's Fleet API.

Flower's own SuperNode starts a Python process a message and sleeps seconds between messages; this
speaks the same protocol in one process. Everything imported from `flwr` below is private to
Flower 1.41, which the project pins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, user_config_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, push_objects
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.runtime import line, lock, pulling, seats
from clients.runtime.pulling import TooLarge as TooLarge
from clients.runtime.trouble import (
    HEARTBEAT_SECONDS,
    Refused as Refused,
    RunOver as RunOver,
    Unreachable as Unreachable,
    status_problem,
    transport_problem,
)
from fedlite import flower
from fedlite.deployment.bundle import MAX_BYTES
from fedlite.deployment.invitation import split_address
from fedlite.deployment.protocol import Release
from fedlite.identity import nodekey

log = logging.getLogger("fedlite.site")

_LONGEST_POLL_SECONDS = 1.0
# What Flower packs a bundle or a part into, beside its bytes.
_ENVELOPE = 10_000


@dataclass(frozen=True)
class Incoming:
    """A message that waits for this site; its content has not been pulled yet."""

    stub: Message
    tree: ObjectTree

    @property
    def run(self) -> int:
        """Flower's number of the run."""
        return int(self.stub.metadata.run_id)


class _Version:
    """Says which Flower this is. Flower's own ends the process when an answer asks it to."""

    def __init__(self) -> None:
        told = RuntimeVersionMetadata.from_local_component("SuperNode")
        self._headers = dict(told.as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        add_headers(context.request, self._headers)
        return call_next(context)


class _Client(FleetHttpClient):
    """Flower's calls over a line of ours; Flower would make its own, from the environment too."""

    def __init__(self, address: str, way: line.Line, signing: NodeAuthHttpInterceptor) -> None:
        self._base_url = f"https://{address}"
        self._interceptors = (_Version(), signing)
        self._retry_invoker = None
        # As long as Flower's own, of a single step.
        self._client = httpx.Client(transport=way, timeout=30.0, trust_env=False)

    def ask(self, path: str, body: bytes) -> bytes:
        """Return what a path of fedlite's own answers, which is asked as Flower's are."""
        headers = {"content-type": "application/octet-stream"}
        url = f"{self._base_url}/v1/fedlite/{path}"
        request = self._client.build_request("POST", url, content=body, headers=headers)
        answer = self._send(ProtobufRequestContext(path, Node(), request))
        answer.raise_for_status()
        return answer.content


class Fleet:
    """A site's connection: activate, then receive and push; not for several threads.

    address: `host:port` of the gateway. ca: PEM of the coordinator's own authority; no other is
    trusted. key: the node key, NIST P-384. Every call raises Unreachable or Refused.
    """

    def __init__(self, address: str, ca: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        """Prepare the connection; nothing is sent yet."""
        self._address = address
        self._public = public_key_to_bytes(key.public_key())
        self._line = line.Line(*split_address(address), ca)
        self._client = _Client(address, self._line, NodeAuthHttpInterceptor(key, key.public_key()))
        self._node = Node()
        self._stop = threading.Event()
        self._heartbeat: threading.Thread | None = None
        self._failed: Refused | None = None

    @property
    def node_id(self) -> int:
        """Flower's number of this node; 0 before activation."""
        return int(self._node.node_id)

    @property
    def release(self) -> Release | None:
        """What the coordinator runs, by its last answer; None where it does not tell."""
        return self._line.release

    def activate(self) -> int:
        """Say that this site is there, keep saying so from a thread, and return its number."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        self._node = Node(node_id=self._call(self._client.ActivateNode, request).node_id)
        try:
            self._check_release()
        except Refused:
            # Said, as it comes back with another release, and must be let in then.
            self._leave()
            raise
        self._failed = None
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, daemon=True)
            self._heartbeat.start()
        return self.node_id

    def close(self) -> None:
        """Say that this site leaves, so that it can come back at once."""
        self._stop.set()
        if self.node_id:
            self._leave()
        self._client._client.close()

    def _leave(self) -> None:
        try:
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        except (Unreachable, Refused) as error:
            log.info("left without a word: %s", error)
        self._node = Node()

    def _check_release(self) -> None:
        """Raise Refused when the coordinator's release and this one do not understand each other.

        It may be upgraded while a site works with it.
        """
        if self.release is not None and self.release.problem:
            raise Refused(f"{self._address}: {self.release.problem}")

    def _beat(self) -> None:
        # A little more often than promised: one lost packet must not take the site off line.
        while not self._stop.wait(0.6 * HEARTBEAT_SECONDS):
            try:
                answer = self._call(
                    self._client.SendNodeHeartbeat,
                    SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS),
                )
                if not answer.success:
                    self._failed = Refused("the coordinator does not know this site any more")
            except Unreachable as error:
                log.debug("no heartbeat: %s", error)
            except Refused as error:
                self._failed = error
            except Exception:
                # Without this thread the site would be off line for good, and not know it.
                log.exception("no heartbeat")

    # Messages ----------------------------------------------------------------------------------

    def receive(self) -> Incoming | None:
        """Return the next message's outline, or None."""
        if self._failed is not None:
            raise self._failed
        answer = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        self._check_release()
        if not answer.messages_list:
            return None
        # Flower gives out one at a time; of more, all but the first would be lost.
        if (len(answer.messages_list), len(answer.message_object_trees)) != (1, 1):
            raise self._no_flower("several messages")
        stub = self._decoded(message_from_proto, answer.messages_list[0])
        return Incoming(stub, answer.message_object_trees[0])

    def run_config(self, run: int) -> tuple[str, dict[str, Any]]:
        """Return what the coordinator says of a run: its bundle's hash, and its run config."""
        answer = self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run))
        return answer.run.fab_hash, self._decoded(
            user_config_from_proto, answer.run.override_config
        )

    def bundle(self, claimed: str, run: int) -> bytes:
        """Return the bytes of a run's bundle; what they are, their own hash says.

        Raises TooLarge for what no bundle can be.
        """
        request = GetFabRequest(node=self._node, hash_str=claimed, run_id=run)
        answer = self._call(self._client.GetFab, request, MAX_BYTES + _ENVELOPE)
        return bytes(answer.fab.content)

    def content(self, incoming: Incoming, limit: int) -> Message:
        """Pull all of a message's parts and return it whole; raises TooLarge beyond `limit`.

        It takes at most `line.SECONDS`, and one more for every `line.RATE` bytes that came.
        """
        until = time.monotonic() + line.SECONDS

        def fetch(name: str, most: int) -> bytes:
            nonlocal until
            part = self._part(incoming.run, name, most, until)
            until += len(part) / line.RATE
            return part

        return pulling.pull(incoming.tree, fetch, limit)

    def _part(self, run: int, name: str, most: int, until: float) -> bytes:
        """Return one part of a message once the coordinator has it, before `until`."""
        request, wait = PullObjectRequest(node=self._node, run_id=run, object_id=name), 0.05
        while time.monotonic() < until:
            answer = self._call(self._client.PullObject, request, most + _ENVELOPE)
            if answer.object_available:
                return bytes(answer.object_content)
            # The server announces a message before it has uploaded all of it.
            if not answer.object_found:
                raise RunOver(f"run {run}: a message was taken back before it was whole")
            # Longer each time: where many sites ask, the upload itself waits for its turn.
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_POLL_SECONDS)
        raise RunOver(f"run {run}: a message came too slowly to be whole")

    def confirm(self, incoming: Incoming) -> None:
        """Tell the coordinator that it need not keep the message any longer."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=incoming.run, message_object_id=incoming.tree.object_id
        )
        self._call(self._client.ConfirmMessageReceived, request)

    def push(self, reply: Message) -> None:
        """Send a reply; sent again, it is the same reply to the coordinator.

        Flower's own statistics ask how long it took: how long a training takes depends on records.
        """
        flower.set_message_id(reply, reply.object_id)
        run = int(reply.metadata.run_id)
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.0],
            )
            answer = self._call(self._client.PushMessages, request)
            push = make_push_object_fn_protobuf(
                lambda asked: self._call(self._client.PushObject, asked),
                self._node,
                run,
                answer.session_id,
            )
            try:
                push_objects(objects, push, object_ids_to_push=set(answer.objects_to_push))
            except ObjectPushError:
                raise RunOver(f"run {run}: the coordinator did not take the reply") from None

    def released(self, path: str, body: bytes, limit: int) -> bytes:
        """Return what the coordinator answers at a path of fedlite's own: of released bundles.

        limit: bytes of the answer. Raises TooLarge beyond it, and RunOver where there is no such
        path, as a coordinator of an older release says.
        """

        def ask(sent: bytes) -> bytes:
            return self._client.ask(path, sent)

        return bytes(self._call(ask, body, limit))

    def _call(self, method: Callable[[Any], Any], request: Any, limit: int = 0) -> Any:
        """Make one call and turn what can go wrong into a text for the operator.

        limit: bytes of the answer, where it is what the coordinator was asked for: raises TooLarge
        beyond it. Of any other answer only a few are taken.
        """
        self._line.clock.limit = limit or line.SMALL
        try:
            return method(request)
        except line.TooLong as error:
            if limit:
                raise TooLarge(f"{self._address}: sent {error}") from None
            raise self._no_flower(str(error)) from None
        except httpx.HTTPStatusError as error:
            raise status_problem(error, self._address) from None
        except httpx.RequestError as error:
            raise transport_problem(error, self._address, self._line.proxy) from None
        except ValueError as error:
            raise self._no_flower(str(error)) from None

    def _decoded(self, decode: Callable[[Any], Any], proto: Any) -> Any:
        """Return what Flower's decoders, which raise what they like, make of an answer."""
        try:
            return decode(proto)
        except Exception as error:
            raise self._no_flower(type(error).__name__) from None

    def _no_flower(self, why: str) -> Unreachable:
        return Unreachable(f"{self._address}: answers, but not as Flower does ({why})")


def connection(seat: Path, key: str = "keys/node.pem") -> Fleet:
    """Return a connection to the coordinator of a seat, by one of its node keys."""
    invitation = seats.joined(seat)
    ca = invitation.ca_pem.encode()
    return Fleet(invitation.address, ca, nodekey.load(seat / key))


def check_activation(seat: Path) -> None:
    """Find out whether a coordinator accepts the seat's key; a site that runs is not disturbed.

    Raises Refused or Unreachable.
    """
    try:
        held = lock.hold(seat)
    except lock.Held:
        return  # its own process says in `fedlite site status` how it is
    with held:
        fleet = connection(seat)
        try:
            fleet.activate()
        finally:
            fleet.close()
