"""What can go wrong between a site and its coordinator, in the words of the site's operator."""

from __future__ import annotations

import httpx
from flwr.supercore.error import ApiErrorCode, FlowerError

from clients.runtime.proxy import Proxy, refusal
from fedlite.deployment.invitation import split_address

# Flower's least: a site that died is seen as gone after twice this many seconds.
HEARTBEAT_SECONDS = 10.0


class Unreachable(ConnectionError):
    """The coordinator cannot be reached now; trying again later may help."""


class Refused(PermissionError):
    """The coordinator refuses this site, or is not the one that it joined; a person must act."""


class RunOver(Exception):
    """The run that a message belongs to has ended; nobody waits for its reply."""


def status_problem(error: httpx.HTTPStatusError, where: str) -> Exception:
    """Return what an answer that is an error means for the operator. where: the address."""
    status = error.response.status_code
    try:
        told = FlowerError.from_json(error.response.content.decode("utf-8", "replace"))
    except RecursionError:
        told = None
    code = told.code if told is not None else None
    if code == ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE:
        return Refused(
            f"{where}: its Flower and the one here do not work together; install the "
            "coordinator's release of fedlite"
        )
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return Refused(
            f"{where}: does not accept this site's key: it is not approved (send request.json "
            "to the coordinator), or was revoked, or another process uses it at this moment "
            f"(one that was killed is forgotten after {2 * HEARTBEAT_SECONDS:.0f} s)"
        )
    if status == httpx.codes.UNAUTHORIZED:
        return Refused(
            f"{where}: the key was revoked, or this machine's clock is off by more than five "
            "minutes; `fedlite site doctor` says which"
        )
    if code is not None and status < 500:
        return RunOver(f"{where}: {told.message!r:.200}" if told else where)
    if status == httpx.codes.FORBIDDEN:
        return RunOver(f"{where}: the run has ended")
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        return RunOver(f"{where}: the gateway does not take so large a message")
    return Unreachable(f"{where}: answers with HTTP {status}; its SuperLink may be starting")


def transport_problem(error: Exception, address: str, way: Proxy | None = None) -> Exception:
    """Return what a failed connection means for the operator, and whether waiting can help.

    way: the proxy that it went through, if any.
    """
    text = str(error)
    if isinstance(error, httpx.ProxyError):
        why = refusal(int(text), *split_address(address))
        return Unreachable(f"{address}: the proxy {way.shown if way else ''} {why}")
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return Unreachable(f"{address}: answers too slowly, or not at all ({text})")
    if "certificate has expired" in text:
        return Refused(f"{address}: its certificate has expired; the coordinator must renew it")
    if "not yet valid" in text:
        return Refused(f"{address}: its certificate is not valid yet; check this machine's clock")
    if "ostname mismatch" in text or "IP address mismatch" in text:
        return Refused(f"{address}: its certificate is for another name; was the address changed?")
    if "CERTIFICATE_VERIFY_FAILED" in text and way is not None:
        return Refused(
            f"{address}: what answers is not the coordinator that this site has joined: the proxy "
            f"{way.shown} may open TLS; ask its operator to let it through unopened"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Refused(
            f"{address}: is not the coordinator that this site has joined (its certificate is "
            "signed by another authority); ask for a new invitation, or find out who answers there"
        )
    if "WRONG_VERSION_NUMBER" in text or "HTTP_REQUEST" in text:
        return Refused(f"{address}: answers without TLS, and this site sends nothing in the clear")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and way is not None:
        return Unreachable(
            f"{address}: the proxy {way.shown} cannot be reached ({text}); correct HTTPS_PROXY, or "
            f"name {split_address(address)[0]} in NO_PROXY"
        )
    if "Name or service not known" in text or "nodename" in text or "name resolution" in text:
        return Unreachable(f"{address}: the name does not resolve; check it, or the name server")
    if "refused" in text:
        return Unreachable(f"{address}: nobody listens there; is the coordinator running?")
    return Unreachable(f"{address}: cannot be reached ({text or type(error).__name__})")
