"""`capped`: limits the memory, relative to the size of a file, and the time of reading it."""

import contextlib
import os
import resource
import signal
import sys
import tracemalloc

MEBIBYTE = 1 << 20
SLACK = 512 * MEBIBYTE  # allocators reserve more address space than they use


class TooSlow(AssertionError):
    """Raised in code that exceeds its time limit."""


@contextlib.contextmanager
def capped(file_bytes, result_bytes=0, *, fixed_bytes=64 * MEBIBYTE, seconds=10):
    """Asserts that memory stays below a fixed part, 4 times the file, and the size of the result.

    Address space is limited too, so that a reader without a limit of its own fails the test, and
    does not exhaust the machine. A reader that takes too long is interrupted.
    """
    cap = fixed_bytes + 4 * file_bytes + result_bytes
    tracemalloc.start()
    try:
        with address_space(cap + SLACK), interrupted(seconds):
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= cap, f"{peak / MEBIBYTE:.1f} MiB, of at most {cap / MEBIBYTE:.1f}"


@contextlib.contextmanager
def address_space(size):
    """Limits further allocations of address space to `size` bytes, on Linux."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def interrupted(seconds):
    """Raises `TooSlow` after `seconds` of CPU time, or 10 times that of wall time.

    CPU time, since other processes may use the CPU; wall time, in case the code only waits.
    """

    def interrupt(*_):
        raise TooSlow(f"not read within {seconds} seconds")

    timers = {signal.SIGVTALRM: (signal.ITIMER_VIRTUAL, seconds),
              signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}  # fmt: skip
    before = {number: signal.signal(number, interrupt) for number in timers}
    for timer, after in timers.values():
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
