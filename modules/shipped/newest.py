"""Which run a command takes where none was named: the newest trained one, else weights that come with the package."""

from __future__ import annotations

import sys
from pathlib import Path

from modules.models.exports import is_export, weights_file
from modules.shipped import DEFAULT, PREFIX

NEEDED = ("clip", "decoder", "diffusion_prior")
"""Stages that `unclip sample` draws with by default."""


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
