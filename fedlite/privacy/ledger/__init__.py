"""What a site writes down of its privacy: rows in a chain, signed, flushed before they count."""

from fedlite.privacy.ledger.chain import Verified, verify
from fedlite.privacy.ledger.files import FILES, Files
from fedlite.privacy.ledger.ledger import Ledger, forget, read, recover
from fedlite.privacy.ledger.rows import Head, Row
from fedlite.privacy.ledger.rules import RULES, Finding, LedgerBusy, LedgerError, LedgerPoisoned

__all__ = [
    "FILES",
    "RULES",
    "Files",
    "Finding",
    "Head",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "LedgerPoisoned",
    "Row",
    "Verified",
    "forget",
    "read",
    "recover",
    "verify",
]
