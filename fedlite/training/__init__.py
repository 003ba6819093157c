"""One site's share of a round: local training, plain or private, from a vector to a delta."""

from fedlite.training.share import Learner

__all__ = ["Learner"]
