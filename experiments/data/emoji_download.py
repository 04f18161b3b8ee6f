"""`unclip data download-emoji`: drawings in many styles, from npm, each set with its licence."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.rendered.iconify import FILE_PREFIX, IconSet, packages, read_set
from experiments.data.options import EMOJI_SETS
from experiments.storage.folders import write_text
from modules.errors import InputError

SCOPE = "@iconify-json"
NOTICE = "NOTICE.txt"


def run(options: argparse.Namespace) -> int:
    """Runs `unclip data download-emoji ...`."""
    for found in download(options.out, options.sets):
        print(f"{found.prefix}: {len(found.icons):,} drawings, {found.attribution}")
    print(f"{Path(options.out) / NOTICE}: whom to name")
    return 0


def download(out: str | Path, sets: Sequence[str] = EMOJI_SETS, npm: str = "npm") -> list[IconSet]:
    """Downloads the packages that are missing, and writes NOTICE.txt beside them.

    Args:
        out: the folder, made when missing.
        sets: names of Iconify's packages.
        npm: the program.

    Returns:
        The sets that were asked for, each read and whole.

    Raises:
        InputError: npm is missing or fails, or a package is damaged; the line says which files to put where.
        OSError: the folder can't be written.
    """
    folder = Path(out).expanduser()
    for name in sets:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise InputError(f"{name!r} is no name of a set; there are {', '.join(EMOJI_SETS)} and others of Iconify's")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in sets if not _package(folder, name)]
    if missing and shutil.which(npm) is None:
        raise InputError(f"npm is not installed; {_by_hand(folder, missing)}")
    for name in missing:
        print(f"getting {SCOPE}/{name}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [npm, "pack", f"{SCOPE}/{name}", "--pack-destination", str(folder), "--silent"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not _package(folder, name):
            said = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
            raise InputError(f"npm could not get {SCOPE}/{name} ({said}); {_by_hand(folder, [name])}")
    there = [read_set(path) for path in packages(folder)]
    write_text(folder / NOTICE, notice(there))
    return [read_set(_package(folder, name)[-1]) for name in sets]


def notice(sets: Sequence[IconSet]) -> str:
    """What has to be said where the drawings, or pictures made from them, are shown."""
    lines = ["The drawings in this folder are other people's work, under these licences:", ""]
    lines += [f"- {found.attribution}, package {SCOPE}/{found.prefix} {found.version}" for found in sets]
    return "\n".join([*lines, "", "Pictures made from them have to keep to these licences too.", ""])


def _package(folder: Path, name: str) -> list[Path]:
    """The versions of a set's package in a folder: iconify-json-noto-1.2.7.tgz, but not those of noto-v1."""
    return sorted(path for path in folder.glob(f"{FILE_PREFIX}{name}-*.tgz") if _version_of(path, name))


def _version_of(path: Path, name: str) -> bool:
    return re.fullmatch(r"\d+\.\d+\.\d+.*", path.stem.removeprefix(f"{FILE_PREFIX}{name}-")) is not None


def _by_hand(folder: Path, names: Sequence[str]) -> str:
    files = ", ".join(f"{FILE_PREFIX}{name}-VERSION.tgz" for name in names)
    commands = " ".join(f"{SCOPE}/{name}" for name in names)
    return f"on a machine that has it, run `npm pack {commands}` and put {files} into {folder}"
