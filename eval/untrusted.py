"""Sample folders, figures and statistics of strangers, read as data; the bounds are `modules.untrusted.reading`'s."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from eval.errors import InputError
from modules.untrusted import reading, writing

if TYPE_CHECKING:
    from torch import Tensor

MAX_RECORD = 2**20
"""Bytes of a manifest line."""
MAX_JSON = 2**26
"""Bytes of a JSON file: a sweep's results have a few hundred kB."""
MAX_TABLE = reading.MAX_TABLE
"""Bytes of a table of captions, ratings, comparisons or votes."""
MAX_PICTURE = 2**28
"""Bytes of a figure's picture."""
MAX_ARRAYS = 2**32
"""Bytes of the arrays in an .npz: the scatter of 20,000 features has 3.2 GB."""
LONGEST_NAME = 255
"""Bytes of a file's name."""
LONGEST_PATH = 4096
"""Characters of a path."""
WITHOUT_LOCKS = writing.WITHOUT_LOCKS
warn_without_locks = writing.warn_without_locks
PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def _ours() -> Iterator[None]:
    """The refusals of the block as this package's InputError."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def parse_json(text: str | bytes, name: str) -> Any:
    """JSON of bounded depth and finite numbers.

    Raises:
        InputError: not such JSON; names the place.
    """
    with _ours():
        return reading.parse_json(text, name)


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
        InputError: a FIFO or a device.
        OSError: missing, or not to be read.
    """
    with _ours():
        return reading.open_regular(path)


def read_bytes(path: Path, limit: int = MAX_JSON) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        InputError: a FIFO, a device, or a larger one.
        OSError: missing, or not to be read.
    """
    with _ours():
        return reading.read_bytes(path, limit)


def read_json(path: Path) -> Any:
    """A JSON file, see `parse_json` and `read_bytes`."""
    return parse_json(read_bytes(path), printable(str(path)))


def read_yaml(path: Path) -> Any:
    """A small YAML file: safe tags, bounded aliases; raises as `modules.untrusted.reading.read_yaml`."""
    with _ours():
        return reading.read_yaml(path)


def printable(text: str) -> str:
    """A text for a terminal, without characters that steer it."""
    return reading.printable(text)


def reason(error: Exception) -> str:
    """The text of an error for a message, without the file's content."""
    return reading.reason(error)


def require_inside(folder: Path, name: object) -> Path:
    """The file of a plain name in a folder; it may be a link to another file of the folder, and to nothing outside.

    Raises:
        InputError: a path, a link that leads out, a folder, a FIFO or a device; or it is not there.
    """
    plain = isinstance(name, str) and len(name.encode("utf-8", "replace")) <= LONGEST_NAME
    if not isinstance(name, str) or not plain or Path(name).name != name or "\0" in name or name in ("", ".", ".."):
        raise InputError(f"{folder} names {printable(repr(name)[:100])}; a file is a plain name inside the folder")
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link that leads out of the folder; put the file itself there")
    if not path.is_file():
        raise InputError(f"{folder} names {name}, which is not there")
    return path


def within(folder: Path, path: Path) -> Path:
    """A file of a folder or below it, if no link leads out of the folder.

    Raises:
        InputError: it does.
    """
    with _ours():
        return reading.within(folder, path)


def require_below(folder: Path, name: object) -> Path:
    """The path of a folder that a record names, or that lies in a run: it is the folder itself or below it.

    Args:
        folder: such as a run.
        name: relative to it.

    Raises:
        InputError: an absolute path, one with "..", or a link that leads out.
    """
    plain = isinstance(name, str) and "\0" not in name and len(name) < LONGEST_PATH
    if not isinstance(name, str) or not plain or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{folder} names {printable(repr(name)[:100])}; folders of a run are named relative to it")
    return within(folder, folder / name)


def read_picture(folder: Path, name: object) -> bytes:
    """The bytes of a PNG in a folder.

    Raises:
        InputError: as `require_inside`; also for what is no PNG.
    """
    path = require_inside(folder, name)
    content = read_bytes(path, MAX_PICTURE)
    if not content.startswith(PNG):
        raise InputError(f"{path} is no PNG picture")
    return content


def check_clip(folder: Path) -> None:
    """Refuse a CLIP's folder whose config asks for more than open_clip's own towers, or does not go with its weights.

    Raises:
        ValueError: names the setting or the tensor.
    """
    from modules.clip import folder as clip_folder

    own = clip_folder.TOKENIZER_KEY in clip_folder.check_config(folder)
    clip_folder.check_folder(folder, own)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity; raises a ValueError that names the tensor."""
    from modules.untrusted import weights

    weights.check_finite(tensors, path)


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is out of bounds; raises as `modules.untrusted.weights.check_header`."""
    from modules.untrusted import weights

    weights.check_header(path)


def load_plain(path: Path) -> Any:
    """Load a file of tensors and plain values that torch has saved; see `modules.untrusted.pickles`."""
    from modules.untrusted import pickles

    return pickles.load_plain(path)


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if they are those expected (on the meta device): names, shapes and dtypes.

    Raises:
        ValueError, SafetensorError, OSError: names the tensor, or the file is damaged or missing.
    """
    from modules.untrusted import weights

    weights.check_tensors(expected, weights.header_of(path), path)
    found, _ = weights.read_weights(path)
    return found


def shapes_of(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, of which its header alone is read.

    Raises:
        InputError: it is damaged, or out of bounds.
        OSError: missing.
    """
    from safetensors import SafetensorError

    from modules.untrusted import weights

    try:
        with _ours():
            return [tuple(tensor.shape) for tensor in weights.header_of(path).values()]
    except SafetensorError as error:
        raise InputError(f"{path} is no file of weights ({error})") from error


def check_npz(path: Path) -> None:
    """Refuse an .npz whose arrays would fill the memory, by what its directory says of them.

    Raises:
        InputError: no regular file, no .npz, or too large.
        OSError: missing.
    """
    with _ours(), reading.open_regular(path) as file:
        try:
            sizes = [member.file_size for member in zipfile.ZipFile(file).infolist()]
        except zipfile.BadZipFile as error:
            raise InputError(f"{path} is no .npz ({error})") from error
    if sum(sizes) > MAX_ARRAYS or len(sizes) > 64:
        raise InputError(f"{path} says that it unpacks to {sum(sizes) / 1e9:,.1f} GB in {len(sizes)} arrays")
