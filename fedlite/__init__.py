"""fedlite: federated learning with small messages, valid privacy and budgets kept at the site."""

__version__ = "0.1.0"
