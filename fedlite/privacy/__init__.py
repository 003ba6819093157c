"""Differential privacy: the mechanisms, what they cost, and training under them."""

from fedlite.privacy.mechanism import (
    ClientMechanism,
    Event,
    LocalMechanism,
    Mechanism,
    RecordMechanism,
    SharedMechanism,
)

__all__ = [
    "ClientMechanism",
    "Event",
    "LocalMechanism",
    "Mechanism",
    "RecordMechanism",
    "SharedMechanism",
]
