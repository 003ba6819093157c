"""What runs at the coordinator: the ServerApp, its rounds, broadcast, checkpoint and evaluation."""
