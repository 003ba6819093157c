"""What may run: a message is looked at here before any of its run's code is.

The hash is of the bytes that came, never the one that the sender names. It covers the code and the
settings inside; what a run sends beside them is compared here with what the operator saw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.deployment import bundle as bundles
from fedlite.guard.policy import SitePolicy
from fedlite.storage import write_atomic

# What Flower's side tells of a run; nothing of it reaches the training.
EXEMPT = ("run.id", "run.directory", "run.quiet", "run.wait")
# What no `at_most` loosens: of fewer sites a sum would have less noise, fewer groups leave more if
# all others collude, a seed that may rise lets the server choose who sums with whom, and other bins
# are another question, which would be answered beside the first.
EXACT = (
    "federation.quorum",
    "federation.seed",
    "privacy.groups",
    "statistics.bins",
    "statistics.most_records",
)
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_KEPT_WAITING = 5


class NotApproved(Exception):
    """The site has not approved this; the text says in one sentence what differs."""


@dataclass(frozen=True)
class ApprovedRun:
    """A run whose bundle this site has approved, ready to be given to a worker.

    config: the bundle's settings, with what the run sends beside them. policy: what it was held
    against.
    """

    bundle: bundles.Bundle
    config: dict[str, Any]
    policy: SitePolicy


def check(policy: SitePolicy, bundle_bytes: bytes, run_config: Mapping[str, Any]) -> ApprovedRun:
    """Return what may run: the bundle, with these settings beside it.

    Raises NotApproved when the bundle is not in the policy or is damaged, when a setting differs
    from the approved one (a number may rise to `at_most`), and when one is unknown. Types count: 1
    is not true and not 1.0, but a whole number stands for a number where that was approved.
    """
    digest = bundles.digest(bundle_bytes)
    approved = policy.bundle(digest)
    if approved is None:
        raise NotApproved(f"bundle {digest[:16]} is not approved by this site")
    try:
        bundle = bundles.read(bundle_bytes)
    except bundles.BundleError as error:
        raise NotApproved(str(error)) from None
    for key, value in run_config.items():
        if key not in bundle.settings and key not in EXEMPT:
            raise NotApproved(f"run config: {key!r} is no setting of the approved bundle")
        if key == "run.id" and not (isinstance(value, str) and _RUN_ID.fullmatch(value)):
            raise NotApproved(f"run.id: must be 16 lower-case hex digits, got {value!r:.80}")
    config = {**bundle.settings, **run_config}
    fused = {key: value for key, value in config.items() if key not in EXEMPT}
    wanted = {key: value for key, value in approved.settings.items() if key not in EXEMPT}
    for key in sorted(fused.keys() | wanted.keys()):
        if key not in fused or key not in wanted:
            raise NotApproved(f"{key}: is not both in the bundle and in its approval")
        # Of a question every setting is a part: with a lower one it would be answered anew.
        exact = key in EXACT or bool(wanted.get("statistics.bins"))
        limit = None if exact else approved.at_most.get(key)
        if not _may(fused[key], wanted[key], limit):
            most = "" if limit is None else f" at most {limit!r}"
            raise NotApproved(
                f"{key}: must be the approved {wanted[key]!r}{most}, got {fused[key]!r:.80}"
            )
    return ApprovedRun(bundle, config, policy)


def keep_refused(home: Path, content: bytes) -> bool:
    """Keep a refused bundle for the operator, of all only the last few; return whether it is new.

    home: the site's folder. What is longer than a bundle may be is not kept: at most
    `_KEPT_WAITING * bundle.MAX_BYTES` lie there.
    """
    if len(content) > bundles.MAX_BYTES:
        return False
    folder = home / "bundles" / "waiting"
    path = folder / f"{bundles.digest(content)}.fab"
    if path.exists():
        return False
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, content)
    # A clock that was put back makes the newest the oldest: it stays whatever its time says.
    others = [one for one in folder.glob("*.fab") if one != path]
    for old in sorted(others, key=os.path.getmtime)[: -_KEPT_WAITING + 1]:
        old.unlink()
    return True


def _may(value: Any, approved: Any, at_most: int | float | None) -> bool:
    same_kind = type(value) is type(approved) or (type(value), type(approved)) == (int, float)
    if not same_kind:
        return False
    # NaN is neither equal nor below anything.
    return bool(value == approved or (at_most is not None and value <= at_most))
