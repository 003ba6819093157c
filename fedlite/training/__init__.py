"""One site's share of a round: local training, plain or private, from a vector to a delta."""

from fedlite.training.share import Learner, Share

__all__ = ["Learner", "Share"]
