"""A Flower app: a small network, pictures, federated averaging."""
