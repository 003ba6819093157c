"""An allow list of system calls: what approved code may ask of the kernel.

Approved code runs machine code of its own as soon as it likes (`ctypes`), so what it may do is what
the kernel does for it. It keeps files (which Landlock bounds), memory, threads, time and waiting.
Everything else fails with EPERM, above all whatever starts or names another process: no `fork`, no
`execve`, no signal, no limit, no memory of somebody else's. A process that cannot start another one
leaves none behind.

Of some calls only some uses are left:

- `clone` makes threads, as the C library asks for them, and nothing else; `clone3`, whose arguments
  a filter cannot read, says that it does not exist, and the C library falls back.
- `open` may cut a file short only where it opens it for writing: Landlock before version 3 does not
  see it otherwise.
- `fcntl` without owners and signals: the kernel would send one to any process of this user.
- `ioctl` for what files and pipes answer, and for the GPU's driver where there is one.
- `prctl` names threads; `prlimit64` reads own limits; `tgkill` is for own threads.

seccomp: Drewry 2012, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable

from fedlite.deployment.syscalls import CALLS, CHECKED, MACHINES, NEWER, number

_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_SECCOMP, _FILTER = 22, 2

# Instructions of the kernel's filter machine, and what a filter returns.
_LOAD, _EQUAL, _NOT_LESS, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_Step = tuple[int, int, int, int]

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: a thread as
# glibc makes it, and, with DETACHED, as musl does.
_THREAD = (0x003D0F00, 0x007D0F00)
# DUPFD, GETFD, SETFD, GETFL, SETFL, GETLK, SETLK, SETLKW, the three locks of open files,
# DUPFD_CLOEXEC, GETPIPE_SZ.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: is it a terminal, how wide, how much.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# nvidia's driver has type 'F', nvidia-uvm none.
_IOCTL_GPU = (0x4600, 0x0000)
# GET_DUMPABLE, SET_NAME, GET_NAME, SET_VMA (names memory).
_PRCTL = (3, 15, 16, 0x53564D41)
_WRITING, _CUT = os.O_ACCMODE, os.O_TRUNC


def available() -> bool:
    """Return whether this kernel takes filters, and the machine is one whose calls are known."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False
    # A filter at no address: a kernel that knows filters looks there, another one does not.
    _LIBC.prctl(_SET_SECCOMP, _FILTER, None, 0, 0)
    return ctypes.get_errno() in (errno.EFAULT, errno.EACCES)


def program(machine: str, pid: int, *, gpu: bool) -> bytes:
    """Return the filter for `machine`, x86_64 or aarch64, as the kernel takes it.

    pid: the process that will be filtered. gpu: whether the calls of nvidia's driver are allowed.
    """
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    architecture, _ = MACHINES[machine]
    steps: list[_Step] = [
        # Offset 4 of the kernel's record of a call is the architecture, 0 the call's number.
        # Another architecture (32 bit calls) would get around the rest; another numbering (x32) is
        # of newer calls.
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, refuse),
        (_LOAD, 0, 0, 0),
        (_NOT_LESS, 0, 1, NEWER),
        (_RETURN, 0, 0, absent),
    ]
    checks: dict[str, list[_Step]] = {
        "clone": _one_of(0, _THREAD),
        "clone3": [(_RETURN, 0, 0, absent)],
        "fcntl": _one_of(1, _FCNTL),
        "ioctl": _one_of(1, _IOCTL, types=_IOCTL_GPU if gpu else ()),
        "open": _whole(1),
        "openat": _whole(2),
        "prctl": _one_of(0, _PRCTL),
        "prlimit64": _all_zero(_low(0), _low(2), _low(2) + 4),
        "tgkill": _one_of(0, (pid,)),
    }
    for name in (*CHECKED, *CALLS):
        at = number(name, machine)
        body = checks.get(name, [(_RETURN, 0, 0, _ALLOW)])
        if at is not None:
            # A body ends every way with a return.
            steps += [(_EQUAL, 0, len(body), at), *body]
    steps.append((_RETURN, 0, 0, refuse))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def install(*, gpu: bool) -> None:
    """Put the allow list in force for this process, for good; it must have one thread.

    gpu: see `program`. no_new_privs must be set. Raises OSError.
    """
    code = program(platform.machine(), os.getpid(), gpu=gpu)
    filled = _Program(len(code) // 8, code)
    if _LIBC.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(filled), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp: the kernel does not take the filter")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _low(argument: int) -> int:
    """Return where the low half of an argument stands in the record; the high one follows."""
    return 16 + 8 * argument


def _one_of(argument: int, values: Iterable[int], types: Iterable[int] = ()) -> list[_Step]:
    """Allow a call whose argument, 32 bits of it, is one of these, or has its second byte so.

    The kernel takes these arguments as 32 bits: the upper half says nothing.
    """
    steps: list[_Step] = [(_LOAD, 0, 0, _low(argument))]
    for value in values:
        steps += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    steps += [(_AND, 0, 0, 0xFF00)]
    for value in types:
        steps += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*steps, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _all_zero(*offsets: int) -> list[_Step]:
    steps: list[_Step] = []
    for offset in offsets:
        steps += [(_LOAD, 0, 0, offset), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _whole(argument: int) -> list[_Step]:
    """Allow an `open` whose flags cut nothing short that is not opened for writing.

    Nor may it open for neither reading nor writing (3), for which Landlock asks for no right.
    """
    steps: list[_Step] = [(_LOAD, 0, 0, _low(argument)), (_AND, 0, 0, _CUT | _WRITING)]
    for flags in (_CUT | os.O_RDONLY, _CUT | _WRITING, _WRITING):
        steps += [(_EQUAL, 0, 1, flags), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]
