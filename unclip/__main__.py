"""`unclip`, also as `python -m unclip`: the command line, with this project's packages whatever folder it starts in."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unclip.packages import take_own


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, as `experiments.cli.main` does."""
    try:
        take_own()
    except ImportError as error:
        print(f"unclip: {error}", file=sys.stderr)
        return 2
    from experiments.cli import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
