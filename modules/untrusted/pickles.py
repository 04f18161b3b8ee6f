"""Files that torch has saved, read as data: tensors, numbers, texts and containers, and no more than the file has."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from modules.errors import InputError
from modules.untrusted.reading import open_regular, printable


def load_plain(path: Path, mmap: bool = False) -> Any:
    """Load a file that torch has saved, by torch's restricted unpickler.

    Args:
        path: the file.
        mmap: map the tensors from it, so that they take memory when they are read.

    Raises:
        InputError: see `check_stored`.
        pickle.UnpicklingError: it holds more; the text says what, and not how to run it all the same, as torch's does.
        RuntimeError, OSError, EOFError: it is damaged or missing, as `torch.load`.
    """
    check_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise UnpicklingError(not_plain(error)) from error
    except RuntimeError as error:
        if not mmap or "mmap can only be used" not in str(error):
            raise
    return load_plain(path)  # A file of torch before 1.6, or no file of torch, has no map.


def not_plain(error: UnpicklingError) -> str:
    """Why a sound file was not read: torch's own text begins with how to read it all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    what = printable(found[1][:100]) if found else "more"
    return f"it holds {what}, and only tensors and plain values are read: anything else could run code"


def check_stored(path: Path) -> None:
    """Refuse an archive with compressed parts: torch stores them as they are, and a kilobyte may unpack to a megabyte.

    Raises:
        InputError: there is one; or the path is no regular file.
        OSError: it is missing or may not be read.
    """
    with open_regular(path) as file:
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError):  # Damaged or of an old torch: torch says it.
            return
    # NAME/code/... is the code of TorchScript, which is not read; a tensor may be called NAME/data/code/0.
    read = (entry for entry in entries if entry.filename.split("/")[1:2] != ["code"])
    packed = next((entry.filename for entry in read if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise InputError(f"{path}: {printable(packed[:100])!r} in it is compressed, which torch never does")
