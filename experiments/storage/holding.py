"""Who holds a folder: locks that end with the process that took them, and say whose they are.

They are POSIX record locks: the kernel lets go of them when the process ends, however it ends, and a helper that it
forked (a data loader's worker) does not hold them on. So there are no stale locks, and nothing to clean up. They work
over NFS too. What the file says is for people only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from modules.errors import InputError
from modules.untrusted.reading import printable, read_json
from modules.untrusted.writing import WITHOUT_LOCKS, open_in_place, warn_without_locks

POLL_SECONDS = 0.2
LOCK = ".lock"


@contextlib.contextmanager
def holding(
    lock: Path,
    subject: str,
    way_out: str,
    *,
    shared: bool = False,
    wait: bool = False,
    sharers: Callable[[], list[Path]] = list,
) -> Iterator[None]:
    """Hold `lock` while the context lasts.

    Args:
        lock: a file, made if need be and never removed.
        subject: what it stands for, as in "run folder 'runs/x'".
        way_out: what to do about it, for the error's end.
        shared: with others that say so too; nobody can hold it alone meanwhile.
        wait: until it is free, instead of refusing.
        sharers: the files that say who shares it.

    Raises:
        InputError: another process holds it; the message says which, where and since when. Or a link lies there.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_in_place(lock, os.O_RDWR)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        if not attempt(descriptor, kind):
            if not wait:
                raise InputError(f"{subject} is in use by {holder(lock, *sharers())}; {way_out}")
            said = printable(f"waiting for {subject}, in use by {holder(lock, *sharers())}")
            print(said, file=sys.stderr, flush=True)
            while not attempt(descriptor, kind):
                time.sleep(POLL_SECONDS)
        if not shared:
            sign(descriptor)
        try:
            yield
        finally:
            if not shared:
                os.ftruncate(descriptor, 0)
        if not _still_there(lock, descriptor):
            raise InputError(
                f"{subject} was removed or renamed while this command worked in it: what it wrote is not whole; look "
                "where it went, and start the command again"
            )
    finally:
        os.close(descriptor)


def _still_there(lock: Path, descriptor: int) -> bool:
    """Whether the file that is held is still the one of that name."""
    try:
        found = lock.stat()
    except OSError:
        return False
    held = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def attempt(descriptor: int, kind: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in WITHOUT_LOCKS:
            raise
        warn_without_locks()
    return True


def sign(descriptor: int) -> None:
    """Write into a lock file who holds it."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": sys.argv}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode(), 0)


def holder(*locks: Path) -> str:
    """'process 17 on cluster-3 since 2026-11-21 17:00:00+00:00', from the first of the files that says."""
    for lock in locks:
        # Closing any descriptor of a file gives up this process's own lock on it: only files of others are read.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            who = read_json(lock)
            return f"process {who['pid']} on {who['host']} since {who['since']}"
    return "another process"
