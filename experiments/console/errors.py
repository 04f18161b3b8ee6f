"""Errors as one line for a person, and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator

EXIT_INPUT = 2


EXIT_INTERRUPTED = 130


def guarded(run: Callable[[], int]) -> int:
    """Call `run`. An error that the user can correct becomes one line on stderr and an exit code."""
    try:
        return _flushed(run)
    except KeyboardInterrupt:
        return complain("interrupted; the same command goes on from here where it can", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) has left. Python would complain once more while it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        line = input_error_line(error)
        if line is None or os.environ.get("UNCLIP_DEBUG"):
            raise
        return complain(line)


def _flushed(run: Callable[[], int]) -> int:
    """Call `run` and write what it printed, so that a reader who has left is noticed here, and not at exit."""
    try:
        code = run()
    except SystemExit:  # of --help
        _flush()
        raise
    _flush()
    return code


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def show_any_text() -> None:
    """Let stdout and stderr replace signs that their encoding (such as ASCII) does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def input_error_line(error: Exception) -> str | None:
    """The line for a person if the error is in the input or in the machine; None if it is in the code."""
    from eval.errors import InputError as EvalInputError
    from modules.errors import InputError

    # jsonargparse wraps what a constructor raises in a ValueError of its own.
    for cause in causes(error):
        if isinstance(cause, (InputError, EvalInputError)):
            return " ".join(str(cause).split())
    if isinstance(error, OSError):
        return os_error_line(error)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, the one that it was raised from, and so on; each once, as torch raises a dead loader's from itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def os_error_line(error: OSError) -> str:
    """One line that names the file and the way out."""
    name = error.filename2 or error.filename
    where = f" {str(name)!r}" if name is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing{where}: free some space, or choose an output folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"no permission for{where or ' a file'}: {error.strerror}; change its permissions or choose another folder"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"no such file or folder:{where or ' ' + str(error)}; check the path, or run the stage that makes it first"
        )
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return f"{error.strerror}:{where}; give another path"
    return " ".join(str(error).split())


def say(text: str) -> None:
    """Print lines with names, captions or words from files; characters that steer a terminal are escaped."""
    from modules.untrusted.reading import printable

    print("\n".join(map(printable, text.split("\n"))), flush=True)


def complain(line: str, code: int = EXIT_INPUT) -> int:
    """Print one line on stderr and return the exit code."""
    from modules.untrusted.reading import printable

    print(f"unclip: {printable(line)}", file=sys.stderr)
    return code
