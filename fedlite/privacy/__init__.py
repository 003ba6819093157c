"""Record-level differential privacy: the mechanism, what it costs, and training under it."""

from fedlite.privacy.mechanism import RecordMechanism

__all__ = ["RecordMechanism"]
