"""Trained weights that come with the package, so that a fresh installation draws: `shipped:NAME` names them as a run.

Each folder here is what `unclip export --int8` makes of a run: configs, weights in 8 bits (those of a CLIP in 16), and
model cards that say the suite, the seed and the licence.
"""

from __future__ import annotations

import sys
from pathlib import Path

from modules.errors import InputError
from modules.models.exports import is_export, weights_file
from modules.untrusted.hub import fetched, is_repository

PREFIX = "shipped:"
DEFAULT = "shapes"
NEEDED = ("clip", "decoder", "diffusion_prior")
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


def chosen_run(run: str | Path | None) -> str:
    """The run that was named; if none was, `newest_run`, which is then said on stderr."""
    if run is not None:
        return str(run)
    found = newest_run()
    print(f"run: {found} (--run names another)", file=sys.stderr, flush=True)
    return found


def newest_run(runs: str | Path = "runs") -> str:
    """The trained run below a folder that was finished last, or, if there is none, the shipped weights of shapes.

    A run is trained when it has the exports of a CLIP, a decoder and a prior that `unclip sample` draws with by
    default.

    Returns:
        What `run_folder` takes.
    """
    folder = Path(runs)
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    trained = [path for path in found if all(is_export(path / stage) for stage in NEEDED)]
    if not trained:
        return PREFIX + DEFAULT
    return str(max(trained, key=lambda path: weights_file(path / "decoder").stat().st_mtime))
