"""Safe writing into a folder that a stranger may have made: no link in it leads a write elsewhere.

A file that is written anew goes beside its place and is renamed, which replaces a link and does not follow it. Locks
and logs are opened where they lie, and what lies beside may be a link already: both are seen to here.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from functools import cache
from pathlib import Path
from typing import BinaryIO

from modules.errors import InputError
from modules.untrusted.reading import printable

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What locking says on file systems that have no locks, as Lustre without flock."""


@cache
def warn_without_locks() -> None:
    """Say once that this file system has no locks; the command goes on without."""
    print(
        "unclip: warning: the file system has no locks: start no second command in the same folder, it would not be "
        "noticed",
        file=sys.stderr,
        flush=True,
    )


def open_in_place(path: Path, flags: int) -> int:
    """A descriptor of a regular file that is no link; it is made if need be.

    Args:
        path: the file.
        flags: os.O_RDWR and the like.

    Raises:
        InputError: a link, a FIFO or a device lies there.
        OSError: as `os.open`.
    """
    more = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags | more, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise _in_the_way(path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _in_the_way(path)
    return descriptor


def open_to_append(path: Path) -> BinaryIO:
    """A regular file, opened at its end for writing; raises as `open_in_place`."""
    return os.fdopen(open_in_place(path, os.O_WRONLY | os.O_APPEND), "ab")


def clear_way(path: Path) -> None:
    """Remove what lies where a temporary file is about to be written, so that no link leads the write elsewhere.

    Raises:
        OSError: a folder lies there, or there is no permission.
    """
    path.unlink(missing_ok=True)


def check_no_link(path: Path) -> None:
    """Refuse a link in the place of a file that a library opens, such as a lock.

    Raises:
        InputError: there is one.
    """
    if path.is_symlink():
        raise _in_the_way(path)


def _in_the_way(path: Path) -> InputError:
    return InputError(
        f"{printable(str(path))} is a link, a FIFO or a device, where a file is written: remove it, and look where "
        "this folder comes from"
    )
