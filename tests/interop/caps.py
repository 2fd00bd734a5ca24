"""A cap on what reading a file takes: memory by the file's size, and time."""

import contextlib
import os
import resource
import signal
import sys
import tracemalloc

MEBIBYTE = 1 << 20
SLACK = 512 * MEBIBYTE  # of address space, in which allocators reserve more than they use


class TooSlow(AssertionError):
    pass


@contextlib.contextmanager
def capped(file_bytes, asked_bytes=0, *, fixed_bytes=64 * MEBIBYTE, seconds=10):
    """A fixed part, 4 times the file, and the size of what is asked for.

    Address space is limited too, so that a reader without a cap of its own fails the test and not
    the machine; a reader that would not end is interrupted.
    """
    cap = fixed_bytes + 4 * file_bytes + asked_bytes
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
    """Of the processor's time, since others may use it too; to wait for something is ten times."""

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
