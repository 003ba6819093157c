"""The entry point of the `fedlite` command."""

from fedlite.commands.main import main

__all__ = ["main"]
