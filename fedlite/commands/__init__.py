"""The `fedlite` command; every module opens the rooms it needs only when a command is called."""
