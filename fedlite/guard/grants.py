"""The data owner's grant: the one way to raise a ceiling that stands in a ledger.

The owner signs on a machine of his own, from the ledger's rows and the policy that he allows; the
site then puts it in force with `fedlite.privacy.budget.Budget.raise_to`. The signature covers the
ledger and the row that holds the policy in force, so it serves this one change of this one ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedlite.identity import keys
from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger.rows import Row, grant_message


def sign_grant(owner_key: keys.Key, rows: Sequence[Row], policy: Policy) -> str:
    """Return the owner's signature, 128 hex digits, for `policy` as the next one of a ledger.

    rows: all of the ledger, verified (`fedlite.privacy.ledger.read`).

    Raises ValueError when the ledger names another owner or none, or when no grant is needed.
    """
    account = Account.of(rows)
    public = keys.public_hex(owner_key)
    if account.owner != public:
        raise ValueError(
            f"owner key: must be {account.owner or 'that of an owner, and this ledger names none'}"
            f", got {public}; only the owner in the ledger's first row can grant"
        )
    if not policy.beyond(account.policy):
        raise ValueError(
            "policy: must allow something that the ledger's does not yet, got nothing new; what "
            "is lowered needs no grant, only site.toml"
        )
    return keys.sign(owner_key, grant_message(account.id, account.policy_hash, policy.body()))
