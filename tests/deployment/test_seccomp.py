"""The filter, run by a machine of our own, and its numbers beside those of others.

That it holds in the kernel is in `test_sandbox.py` and `test_hostile.py`.
Covers fedlite/deployment/syscalls.py.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import re
import struct
from pathlib import Path

import pytest

from fedlite.deployment import seccomp
from fedlite.deployment.syscalls import CALLS, CHECKED, MACHINES, NEWER, number

ALLOW, REFUSE, ABSENT = "allow", errno.EPERM, errno.ENOSYS
PID = 4711
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


def judged(
    machine: str, call: int, *arguments: int, architecture: int | None = None, gpu: bool = False
) -> str | int:
    """Run the filter as the kernel would; return ALLOW or the error."""
    known = MACHINES[machine][0]
    record = struct.pack(
        "<IIQ6Q",
        call,
        known if architecture is None else architecture,
        0,
        *(argument % 2**64 for argument in (*arguments, *[0] * 6)[:6]),
    )
    code = seccomp.program(machine, PID, gpu=gpu)
    steps = list(struct.iter_unpack("=HBBI", code))
    assert len(steps) < 4096
    at = value = 0
    while True:
        kind, true, false, operand = steps[at]
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("<I", record, operand)
        elif kind == 0x54:
            value &= operand
        elif kind in (0x15, 0x35):
            at += true if (value == operand if kind == 0x15 else value >= operand) else false
        else:
            assert kind == 0x06, kind
            if operand == 0x7FFF0000:
                return ALLOW
            assert operand >> 16 == 5, operand
            return operand & 0xFFFF


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def of(name: str, machine: str) -> int:
    found = number(name, machine)
    assert found is not None
    return found


def test_what_is_listed_is_allowed_and_nothing_else(machine: str) -> None:
    column = MACHINES[machine][1]
    allowed = {pair[column] for pair in CALLS.values()} - {None}
    checked = {pair[column] for pair in CHECKED.values()} - {None}
    assert len(allowed) > 80 and not allowed & checked
    for call in range(NEWER):
        if call not in checked:
            assert judged(machine, call) == (ALLOW if call in allowed else REFUSE), call
    for call in (NEWER, 1000, 0x40000000, 0x40000000 + of("read", machine), 2**32 - 1):
        assert judged(machine, call) == ABSENT


def test_calls_of_another_kind_of_machine_are_refused(machine: str) -> None:
    for other in (0x40000003, 0x40000028, 0, MACHINES[machine][0] ^ 0x80000000):
        assert judged(machine, of("read", machine), architecture=other) == REFUSE


def test_threads_and_no_processes(machine: str) -> None:
    clone = of("clone", machine)
    for flags in (0x3D0F00, 0x7D0F00):
        assert judged(machine, clone, flags) == ALLOW
        # The kernel looks at the lower half only.
        assert judged(machine, clone, flags + 2**33) == ALLOW
        for bit in range(32):
            if flags ^ 1 << bit not in (0x3D0F00, 0x7D0F00):
                assert judged(machine, clone, flags ^ 1 << bit) == REFUSE, hex(flags ^ 1 << bit)
    for flags in (0, 17, 0x4111, 0x1200011):
        assert judged(machine, clone, flags) == REFUSE
    assert judged(machine, of("clone3", machine), 1, 88) == ABSENT


@pytest.mark.parametrize("name", ["open", "openat"])
def test_nothing_is_cut_short_that_is_not_opened_for_writing(name: str, machine: str) -> None:
    call, first = number(name, machine), () if name == "open" else (2**64 - 100,)
    if call is None:
        assert (name, machine) == ("open", "aarch64")
        return
    for more in (0, 0o100, 0o2000000, 0o4000):
        for flags in (0, 1, 2, 0o1001, 0o1002):
            assert judged(machine, call, *first, 99, flags | more) == ALLOW
        for flags in (0o1000, 0o1003, 3):
            assert judged(machine, call, *first, 99, flags | more) == REFUSE


def test_what_of_the_others_is_left(machine: str) -> None:
    table = {
        ("fcntl", 1): ({0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032}, range(1100)),
        ("prctl", 0): ({3, 15, 16, 0x53564D41}, [*range(100), 0x53564D41, 0x59616D61]),
        ("tgkill", 0): ({PID}, [0, 1, PID - 1, PID, PID + 1, 2**32 - 1]),
        ("ioctl", 1): (
            {0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451},
            [*range(0x5400, 0x5500), 0x8901, 0x8902, 0x4611, 0xC0104611, 0x30000001, 0x40049409],
        ),
    }
    for (name, argument), (left, tried) in table.items():
        for value in tried:
            for high in (0, 2**32):
                outcome = judged(machine, of(name, machine), *[7] * argument, value + high)
                assert outcome == (ALLOW if value in left else REFUSE), (name, value)
    ioctl = of("ioctl", machine)
    for value in (0xC0104611, 0x30000001, 0x4B, 0x5401):
        assert judged(machine, ioctl, 7, value, gpu=True) == ALLOW
    for value in (0x5412, 0x541C, 0x5452, 0x8901, 0x40049409, 0xC0045877):
        assert judged(machine, ioctl, 7, value, gpu=True) == REFUSE
    limits = of("prlimit64", machine)
    assert judged(machine, limits, 0, 7, 0, 99) == ALLOW
    for pid, new in ((1, 0), (PID, 0), (0, 1), (0, 2**32), (0, 2**63)):
        assert judged(machine, limits, pid, 7, new, 99) == REFUSE


def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    path = next((Path(p) for p in HEADERS[machine] if Path(p).exists()), None)
    if path is None:
        pytest.skip("no headers here")
    text = path.read_text()
    known = {
        name: int(digits)
        for name, digits in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", text)
    }
    known.setdefault("newfstatat", known.get("fstatat", -1))
    for name in (*CALLS, *CHECKED):
        assert number(name, machine) == known.get(name), name
    assert max(known[name] for name in known if name in CALLS) < NEWER


def test_the_numbers_are_those_of_libseccomp(machine: str) -> None:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("no libseccomp here")
    library = ctypes.CDLL(found)
    for name in (*CALLS, *CHECKED):
        known = library.seccomp_syscall_resolve_name_arch(MACHINES[machine][0], name.encode())
        assert number(name, machine) == (known if known >= 0 else None), name
