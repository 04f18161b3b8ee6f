"""Trained weights that come with the package, so that a fresh installation draws: `shipped:NAME` names them as a run.

Each folder here is what `unclip export --int8` makes of a run: configs, weights in 8 bits (those of a CLIP in 16), and
model cards that say the suite, the seed and the licence.
"""

from __future__ import annotations

from pathlib import Path

from modules.errors import InputError
from modules.untrusted.hub import fetched, is_repository

PREFIX = "shipped:"
DEFAULT = "shapes"
HERE = Path(__file__).parent


def shipped_names() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.parent.parent.name for path in HERE.glob("*/decoder/config.yaml"))


def run_folder(run: str | Path) -> Path:
    """The folder of a run: the path itself, or the folder of the weights that `shipped:NAME` names.

    A text that is no path here and may be USER/NAME is looked for on the hub (see `modules.untrusted.hub`).

    Raises:
        InputError: no weights of that name come with the package. The message lists those that do.
    """
    text = str(run)
    if not text.startswith(PREFIX):
        wanted = isinstance(run, str) and not Path(run).exists() and is_repository(run)
        return fetched(text) if wanted else Path(run)
    name, there = text.removeprefix(PREFIX), shipped_names()
    if name not in there:
        raise InputError(f"no weights {text!r} come with the package; there are {', '.join(PREFIX + n for n in there)}")
    return HERE / name


def stage_place(stage: str) -> Path:
    """The folder that `shipped:NAME/STAGE` names; any other text is a path.

    Raises:
        InputError: no weights of that name come with the package.
    """
    if not stage.startswith(PREFIX):
        return Path(stage)
    run, _, name = stage.partition("/")
    return run_folder(run) / name
