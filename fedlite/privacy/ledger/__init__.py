"""What a site writes down of its privacy: rows in a chain, signed, flushed before they count."""

from fedlite.privacy.ledger.ledger import (
    FILES,
    RULES,
    Files,
    Finding,
    Head,
    KeyFileError,
    Ledger,
    LedgerBusy,
    LedgerError,
    LedgerPoisoned,
    Row,
    Verified,
    forget,
    read,
    recover,
    verify,
)

__all__ = [
    "FILES",
    "RULES",
    "Files",
    "Finding",
    "Head",
    "KeyFileError",
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
