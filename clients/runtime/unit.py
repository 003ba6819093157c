"""The systemd unit that keeps a site running, with no more rights than it needs."""

from __future__ import annotations

from pathlib import Path

NAME = "fedlite-site.service"


def text(home: Path, command: str, user: str) -> bytes:
    """Return a hardened unit that runs `command site start HOME` as `user`; absolute paths."""
    return f"""\
# Install: sudo systemctl enable --now {_comment(home / NAME)}
[Unit]
Description=fedlite site
After=network-online.target
Wants=network-online.target
# Never give up: a coordinator may be away for days.
StartLimitIntervalSec=0

[Service]
User={user}
ExecStart={_word(command)} site start {_word(str(home))}
WorkingDirectory={_path(str(home))}
Restart=always
RestartSec=15
TimeoutStopSec=60
UMask=0077
Environment=FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
Environment=FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 PYTHONDONTWRITEBYTECODE=1
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={_word(str(home), expand=False)}
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# By what is forbidden, not by what is allowed: approved code runs under Landlock, whose calls are
# in no group of older systemds. No PrivateDevices: it would hide a GPU.
SystemCallFilter=~@clock @debug @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
""".encode()


def _comment(path: Path) -> str:
    return str(path).replace("\n", " ")


def _path(path: str) -> str:
    # This one setting takes the rest of its line as it is, but for specifiers.
    return path.replace("%", "%%")


def _word(word: str, *, expand: bool = True) -> str:
    """Quote one word; `expand`: where systemd would replace $NAME, as in a command line."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (quoted.replace("$", "$$") if expand else quoted) + '"'
