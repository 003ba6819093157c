"""The one door: everything that leaves a site goes through `send`, and only these.

A hello (public configuration and the ledger's head), an update that the site's policy allows, a
step of a secure sum of such updates, the counts of its calibration records where the policy allows
these, or a code. There is no way to send a text, a loss or a tensor: they have no type here.
"""

from __future__ import annotations

from fedlite.compression import disclosed_records
from fedlite.flower import wire
from fedlite.guard.policy import SitePolicy
from fedlite.messages import Code, Counted, Hello, Reply
from fedlite.secure.messages import Note


class NotAllowed(Exception):
    """The site's policy does not let this leave; nothing was sent."""


def send(
    outgoing: Hello | Reply | Note | Code,
    message: wire.Message,
    policy: SitePolicy | None,
    unit: str,
) -> wire.Message:
    """Return the reply to `message` that carries `outgoing`.

    unit: what protects an update: `record`, `client-site`, `client-server`, their `-shared` or
    `none`. Without a policy (nobody has opened the site yet) only a code may leave.

    Raises NotAllowed, naming the rule, when the policy does not let it leave.
    """
    if isinstance(outgoing, Code):
        return wire.decline(outgoing, message)
    if policy is None:
        raise NotAllowed("egress: must be a code as long as the site has no policy")
    if isinstance(outgoing, Counted) and "counts" not in policy.metrics:
        raise NotAllowed("egress.metrics: must hold 'counts' before counts may leave")
    if isinstance(outgoing, Reply):
        _check_update(outgoing, policy, unit)
    elif isinstance(outgoing, Note):
        _check_unit(policy, unit)
    elif not isinstance(outgoing, Hello):
        raise NotAllowed(
            f"egress: must be a hello, an update, counts or a code, got {type(outgoing)}"
        )
    return wire.answer(outgoing.encode(), message)


def hand_over(outgoing: Hello | Reply, message: wire.Message) -> wire.Message:
    """Return what approved code hands to the site's own process, which holds it to the policy.

    It leaves nothing: that process reads it and calls `send`.
    """
    return wire.answer(outgoing.encode(), message)


def _check_update(reply: Reply, policy: SitePolicy, unit: str) -> None:
    _check_unit(policy, unit)
    if unit != "none" and reply.head is None:
        raise NotAllowed("ledger: every private update must travel with the head that records it")
    if disclosed_records(reply.frame) and "records" not in policy.metrics:
        raise NotAllowed("egress.metrics: must hold 'records' before a record count may leave")


def _check_unit(policy: SitePolicy, unit: str) -> None:
    if not policy.allows(unit):
        raise NotAllowed(
            f"budget.units: must hold {unit!r} before such an update may leave, has "
            f"{', '.join(policy.units) or 'nothing'}"
        )
