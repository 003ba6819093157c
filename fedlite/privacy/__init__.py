"""Differential privacy: the mechanisms, what they cost, and training under them."""

from fedlite.privacy.mechanism import ClientMechanism, Event, Mechanism, RecordMechanism

__all__ = ["ClientMechanism", "Event", "Mechanism", "RecordMechanism"]
