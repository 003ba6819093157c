"""Shut this process in: from then on it reaches the files it was told, no network, no process.

Locks of the Linux kernel that need no privileges, and that this process cannot open again:

- **Landlock** for files, for TCP, and against looking into or signalling processes outside: their
  `/proc/PID/mem`, `environ` and `ptrace` are closed, also to the same user, also to root.
- **seccomp**, an allow list of system calls (`fedlite.deployment.seccomp`): no socket, no other
  process, no program, nothing that Landlock does not see.
- **capabilities**: root gives up all but to overlook who owns a file that is allowed. With others
  it could read the environment of any process, or replace the kernel.
- a **network namespace** of its own, where the process is privileged enough to get one.

What is open already stays open: pass nothing on that should not be used. What the locks do not
cover: CPU time, memory and the number of threads, whether a file exists and how long it is, and the
names and command lines of other processes in `/proc`.
Landlock: Salaün 2017-2024, https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedlite.deployment import seccomp

_LIBC = ctypes.CDLL(None, use_errno=True)
# The same numbers on every architecture: they came after numbering was unified.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38
_NEW_NETWORK = 0x40000000
_OVERRIDE = 1 << 1

# Rights on files, by bit; the later ones came with later versions of the interface.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
# No symbolic link, device, pipe or socket: whoever reads the folder later must not stumble on one.
_WRITE = (_READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE) | (
    _MAKE_DIR | _MAKE_REGULAR | _REFER | _TRUNCATE
)
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_TCP = 0b11
_SCOPES = 0b11

# What a version of Landlock does not see that a later one does. The allow list of calls closes each
# of them, too: a newer kernel has two locks where an older one has one.
_SINCE = {
    3: "cutting a file short",
    4: "TCP",
    5: "control calls to devices",
    6: "signals and abstract sockets",
}
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Confinement:
    """What is in force.

    landlock: version of its interface. lacks: what that version does not see, so that the allow
    list of system calls is the only lock on it. namespace: its own, empty network.
    """

    landlock: int
    lacks: tuple[str, ...]
    namespace: bool


def available() -> int:
    """Return the version of Landlock's interface that the kernel speaks; 0: none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def lacks(version: int) -> tuple[str, ...]:
    """Return what this version of Landlock does not see and a later one does.

    >>> lacks(4), lacks(6)
    (('control calls to devices', 'signals and abstract sockets'), ())
    """
    return tuple(what for since, what in _SINCE.items() if version < since)


def problem() -> str:
    """Return why no process can be shut in on this machine, with the mend; "" where it can."""
    if not available():
        missing = "Landlock (Linux 5.13, and `landlock` in /sys/kernel/security/lsm)"
    elif not seccomp.available():
        missing = "seccomp filters (CONFIG_SECCOMP_FILTER, on x86_64 or aarch64)"
    else:
        return ""
    return (
        f"sandbox: must have {missing}, got a kernel without; nothing of a bundle is run; use a "
        "newer one, or, if approved code may do all that this user can, set limits.sandbox = false "
        "in site.toml"
    )


def restrict(read: Iterable[Path], write: Iterable[Path]) -> Confinement:
    """Shut this process in, for good; returns what is in force.

    read: files and folders below which it may read. write: those below which it may read, write,
    make and remove files. What does not exist is skipped. Links are followed once, here: what a
    link inside points to must be allowed itself. Beside them only the harmless devices and the
    GPU's can be opened. Temporary files go into the last folder of `write` from now on, as torch
    looks for such a place.

    Raises OSError, with the mend, when the kernel has no Landlock or no seccomp, and when the
    process has a second thread (that one would stay outside).
    """
    version = available()
    if why := problem():
        raise OSError(errno.ENOSYS, why)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise OSError(
            errno.EBUSY,
            f"sandbox: must be set up while the process has one thread, got {threads}; start it "
            "with OPENBLAS_NUM_THREADS=1, and call torch.set_num_threads afterwards",
        )
    write = list(write)
    rights = _known(version)
    # PR_SET_DUMPABLE stays as it is: cleared it would guard this process against its own user, who
    # has all that it has, and would close /proc/self/fd, which libraries read.
    _check(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    namespace = _LIBC.unshare(_NEW_NETWORK) == 0
    _give_up_capabilities()
    attributes = struct.pack("=QQQ", rights, _TCP * (version >= 4), _SCOPES * (version >= 6))
    # An older kernel refuses fields that it does not know.
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _check(
        _LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "ruleset"
    )
    devices = _devices()
    try:
        for path in read:
            _allow(ruleset, path, _READ & rights)
        for path in write:
            _allow(ruleset, path, _WRITE & rights)
        for device in devices:
            _allow(ruleset, device, (_READ | _WRITE | _IOCTL) & rights)
        _check(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)
    for folder in (path for path in write if path.is_dir()):
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    seccomp.install(gpu=any(device.name.startswith("nvidia") for device in devices))
    return Confinement(version, lacks(version), namespace)


def _devices() -> list[Path]:
    nvidia = [*Path("/dev").glob("nvidia*"), *Path("/dev/nvidia-caps").glob("*")]
    return [Path("/dev") / name for name in _DEVICES] + [p for p in nvidia if not p.is_dir()]


def _known(version: int) -> int:
    """Return the rights on files that this version can take away."""
    bits = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << bits) - 1


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, opened)
        _check(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), str(path))
    finally:
        os.close(opened)


def _give_up_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    now = ctypes.create_string_buffer(24)
    _check(_LIBC.capget(header, now), "capget")
    effective, permitted = (number & _OVERRIDE for number in struct.unpack_from("=II", now))
    _check(_LIBC.capset(header, struct.pack("=6I", effective, permitted, 0, 0, 0, 0)), "capset")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(
            number,
            f"sandbox: {what}: {os.strerror(number)}; nothing of the bundle was run; set "
            "limits.sandbox = false in site.toml only if approved code may read all that this "
            "user can",
        )
    return result
