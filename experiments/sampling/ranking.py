"""The CLIP that chooses among candidates, read and checked: it must neither condition nor judge."""

from __future__ import annotations

import argparse

from modules.clip.folder import clip_folder
from modules.clip.frozen import FrozenCLIP
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.manipulations.ranking import check_ranking_clip, same_weights
from modules.pipeline import UnCLIP


def check_ranking(options: argparse.Namespace) -> None:
    """Refuse candidates without a CLIP that chooses, and a CLIP without any choice.

    Raises:
        InputError: names the options.
    """
    if (options.best_of > 1) != bool(options.rank_clip):
        raise InputError(
            f"--best-of {options.best_of} and --rank-clip {options.rank_clip}: a CLIP chooses a candidate, so give "
            "both (--best-of 2 or more), or neither"
        )
    condition = CONDITIONS.get(options.condition)
    if options.best_of > 1 and condition is not None and not condition.draws:
        raise InputError(f"--best-of: {options.condition} draws nothing, so that all candidates are the same picture")


def ranking_clip(system: UnCLIP, folder: str, judge: str | None = None) -> FrozenCLIP:
    """The CLIP in a folder (a stage's, or its export), or of open_clip's name, on the system's device.

    Args:
        system: the run, with its guiding CLIP.
        judge: folder of a CLIP that will judge, beside the run's eval_clip.

    Raises:
        InputError: it conditions the run's stages, guides its decoder, or judges.
    """
    name = clip_folder(folder)
    check_ranking_clip(name, system.run)
    if judge is not None and same_weights(name, judge):
        raise InputError(f"--rank-clip {folder} is the CLIP that judges, {judge}: it would choose what it measures")
    found = FrozenCLIP(name).to(system.device)
    for role, own in system.clips_at_work().items():
        if own.fingerprint == found.fingerprint:
            raise InputError(f"--rank-clip {folder} is the CLIP that {role}: rank with another")
    return found
