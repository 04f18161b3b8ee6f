"""Reference statistics read from and written to files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.judges.judges import Judges
from eval.measure import Reference
from eval.reference import ReferenceStatistics
from eval.samples.folder import SampleFolder
from modules.errors import InputError


def read_statistics(
    paths: Sequence[str], real: SampleFolder, judges: Judges
) -> dict[str, tuple[str, ReferenceStatistics]]:
    """Judge -> file and content, of statistics for Frechet distances, such as those of all images of a data set.

    Raises:
        InputError: a file is damaged, or made of images of another size, or with a network or resizing that nothing
            here is measured with; or two are for one network.
    """
    from eval.reference import ReferenceStatistics

    chosen: dict[str, tuple[str, ReferenceStatistics]] = {}
    for path in paths:
        found = ReferenceStatistics.load(path).require(size=list(real.size))
        name = judge_of(path, found.protocol, judges)
        if name in chosen:
            raise InputError(f"{chosen[name][0]} and {path} both hold statistics by {name}; give one of them")
        chosen[name] = path, found
    return chosen


def with_statistics(chosen: Mapping[str, tuple[str, ReferenceStatistics]], reference: Reference) -> Reference:
    """The reference with the statistics of `read_statistics` in the place of its own.

    Raises:
        InputError: they are of another number of features.
    """
    from dataclasses import replace

    statistics, origins = dict(reference.statistics), dict(reference.origins)
    for name, (path, found) in chosen.items():
        theirs, ours = (len(s.mean) for s in (found.statistics, reference.statistics[name]))
        if theirs != ours:
            raise InputError(
                f"{path} holds statistics of {theirs} features, the {name} weights give {ours}: make it again"
            )
        statistics[name] = found.statistics
        origins[name] = f"{found.protocol.get('digest')} (n = {found.protocol.get('n')})"
    return replace(reference, statistics=statistics, origins=origins)


def judge_of(path: str, protocol: Mapping[str, Any], judges: Judges) -> str:
    """Whose features the statistics in a file are of.

    Raises:
        InputError: of none that is here.
    """
    for name, judge in judges.everyone(scores=False).items():
        if protocol.get("extractor") == judge.name and protocol.get("resizing") == judge.resizing:
            return name
    here = "; ".join(f"{judge.name} ({judge.resizing})" for judge in judges.extractors().values())
    raise InputError(
        f"{path} holds statistics by {protocol.get('extractor')} ({protocol.get('resizing')}), but the samples are"
        f" measured by {here}: name that network too (--inception, --network, --classifier, --clip), or make the"
        " statistics again by these"
    )


def statistics_paths(folder: str | None, names: Iterable[str]) -> dict[str, Path]:
    """Network -> the file for its statistics: FOLDER/inception.npz and so on; none without a folder."""
    from eval.reference import SUFFIX

    return {name: Path(folder) / f"{name}{SUFFIX}" for name in names} if folder else {}


def statistics_files(folder: str | None, reference: Reference, judges: Judges) -> dict[Path, str | bytes]:
    """File -> content: the statistics of the real images themselves, by each network."""
    from eval.reference import ReferenceStatistics

    written: dict[Path, str | bytes] = {}
    for name, path in statistics_paths(folder, reference.statistics).items():
        judge = judges.extractors()[name]
        protocol = {
            "extractor": judge.name,
            "resizing": judge.resizing,
            "size": list(reference.folder.size),
            "n": len(reference.folder),
            "digest": reference.digest,
        }
        written[path] = ReferenceStatistics(reference.statistics[name], protocol).content()
    return written
