"""A folder of pictures with captions beside them: text files, a metadata table, or the file names themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.captions import GROUND_TRUTH, CaptionConfig, usable
from datamodules.faults import Fault, FaultPolicy
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import Listed, PictureDataModule, SplitConfig
from datamodules.pictures.sources import Entry, PairTable
from datamodules.pictures.tables import METADATA, Names, composed, inside, rows_of
from modules.errors import InputError
from modules.images.files import open_picture
from modules.untrusted.reading import read_bytes

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
LONGEST_TEXT = 2**20
"""Bytes of a text file of captions."""
WAYS = (
    "put a .txt beside every picture, or a metadata.jsonl with file_name and text into the folder, or set "
    "captions_from: names"
)
_ABOUT = re.compile(r"(.*/)?(readme|licen[cs]e|copying|notice)[^/]*$", re.IGNORECASE)


class ImageFolderDataModule(PictureDataModule):
    """Pictures in a folder and its subfolders, with captions in one of three places.

    - `metadata.jsonl` or `metadata.csv`, anywhere in the tree (Hugging Face's imagefolder convention): a line a
      picture, `file_name` relative to the table's folder, captions in `text` or in the columns that
      `captions.columns` names; a list (jsonl) is several captions.
    - A `.txt` with the same name beside every picture, UTF-8; every line is a caption.
    - The file names: `a_red_bicycle-003.jpg` is "a red bicycle".

    Args:
        train: the folder of the training pairs.
        val: the folder of the validation pairs; null holds out `splits.val_share` of the training folder.
        test: the folder of the test pairs; null in the same way.
        captions_from: "auto" takes a metadata table if there is one, else text files, but never the names.
        image_size: side of the images in pixels.
        batch_size: pairs a batch and process, in training and in evaluation.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: not used by this format.
        seed: of the training order and of what is drawn anew in every pass.
        num_workers: loader processes.
        captions: columns, shares and length of captions.
        picture: crop, flip, decoding.
        splits: sizes and shares.
        faults: what happens with pairs that cannot be used.
        token_features: whether the batches hold the CLIP's features of every caption token, for networks that read them
            (`unclip embed --token-features`).

    Raises:
        InputError: no such folder, no pictures or no captions in it, more faults than allowed.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        captions_from: Literal["auto", "metadata", "text", "names"] = "auto",
        image_size: int = 64,
        batch_size: int = 64,
        embeddings: str | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        captions: CaptionConfig = CaptionConfig(),
        picture: PictureConfig = PictureConfig(),
        splits: SplitConfig = SplitConfig(),
        faults: FaultPolicy = FaultPolicy(),
        token_features: bool = False,
    ) -> None:
        sources = {"train": train, "val": val, "test": test}
        super().__init__(
            sources, image_size, batch_size, embeddings, cache_dir, seed, num_workers, captions, picture, splits, faults
        )
        self.token_features = token_features
        self.captions_from = captions_from

    def list_pairs(self, source: str) -> Listed:
        root = Path(source).expanduser()
        if not root.is_dir():
            raise InputError(f"{source}: no such folder; name the folder of the pictures")
        closed: list[Fault] = []
        files = sorted(files_below(root, closed, self.faults.follow_links))
        tables = [name for name in files if name.rpartition("/")[2] in METADATA]
        how = self.captions_from
        if how == "auto":
            how = "metadata" if tables else "text"
        if how != "metadata":
            self.caption_config.refuse_columns(f"captions of {'file names' if how == 'names' else 'text files'}")
        pictures = [name for name in files if name.lower().endswith(SUFFIXES)]
        if how == "metadata" and not tables:
            raise InputError(f"{source}: neither metadata.jsonl nor metadata.csv; {WAYS}")
        if how != "metadata" and not pictures:
            raise InputError(f"{source}: no pictures ({', '.join(SUFFIXES)})")
        if how == "text" and not any(name.lower().endswith(".txt") for name in files):
            raise InputError(f"{source}: no captions; {WAYS}")
        if how == "metadata":
            table, faults = self._from_tables(root, tables, files, pictures)
        else:
            table, faults = self._from_files(root, pictures, files, named=how == "names")
        return Listed(table, closed + faults, FolderReader(root, table.keys))

    def _from_files(
        self, root: Path, pictures: list[str], files: list[str], named: bool
    ) -> tuple[PairTable, list[Fault]]:
        texts = {composed(name[:-4]): name for name in sorted(files, key=_plain_txt) if name.lower().endswith(".txt")}
        faults: list[Fault] = []

        def entries() -> Iterator[Entry]:
            for name in pictures:
                values = _from_name(name) if named else _from_text(root, name, texts)
                captions, wrong = usable(values, str(root / name), self.caption_config.max_words)
                faults.extend(wrong)
                if captions:
                    yield Entry(name, captions)

        table = PairTable.of(entries())
        if not named:
            stems = {composed(name.rpartition(".")[0]) for name in pictures}
            alone = sorted(name for stem, name in texts.items() if stem not in stems and not _ABOUT.match(name))
            faults += [Fault(str(root / name), "a caption without a picture") for name in alone]
            faults += _second_texts(root, files, texts)
        return table, faults

    def _from_tables(
        self, root: Path, tables: list[str], files: list[str], pictures: list[str]
    ) -> tuple[PairTable, list[Fault]]:
        there, named = Names(files), set()
        entries: dict[str, Entry] = {}
        faults: list[Fault] = []
        columns = self.caption_config.columns or {GROUND_TRUTH: "text"}
        nameless = 0  # Lines that were to name a picture, and name none that is there.
        for table in tables:
            folder = table.rpartition("/")[0]
            for place, row, wrong in rows_of(root / table, columns):
                name, outside = inside(folder, str(row.get("file_name") or ""))
                name = there.find(name)
                named.add(name)
                nameless += name not in there
                if wrong:
                    faults.append(Fault(place, wrong))
                    continue
                wrong = outside
                if not wrong and name in entries:
                    wrong = "a picture that is listed twice"
                if not wrong and name not in there:
                    wrong = "an entry that points nowhere"
                captions, others = usable(
                    ((source, row.get(column)) for source, column in columns.items()),
                    place,
                    self.caption_config.max_words,
                )
                faults += [Fault(place, wrong, str(row["file_name"]))] if wrong else others
                if captions and not wrong:
                    entries[name] = Entry(name, captions)
        # A line that names no picture and a picture that no line names are one lost pair.
        unnamed = [name for name in pictures if name not in named][nameless:]
        faults += [Fault(str(root / name), "no caption", "in no table") for name in unnamed]
        return PairTable.of(entries[name] for name in sorted(entries)), faults


class FolderReader:
    """Reads pictures below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = str(root), names

    def name(self, pair: int) -> str:
        return f"{self.root}/{self.names[pair]}"

    def read(self, pair: int) -> bytes:
        name = self.name(pair)
        with open_picture(name, name) as file:
            return file.read()


def files_below(root: Path, closed: list[Fault], follow: bool) -> Iterator[str]:
    """Names of all files below a folder, relative, with slashes; hidden ones left out, folders visited once.

    What is no regular file, what links lead out of the folder or nowhere, and folders that cannot be read are added to
    `closed`. With `follow`, links that lead out are followed.
    """
    home, seen = os.path.realpath(root), set()
    left = [""]
    while left:
        prefix = left.pop()
        place = f"{root}/{prefix}"[:-1] if prefix else str(root)
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(place) as entries:
                found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            if not prefix:
                raise InputError(f"{root} cannot be read: {error.strerror}") from error
            closed.append(Fault(place, "a folder that cannot be read", error.strerror or "", exact=False))
            continue
        folders = []
        for entry in found:
            wrong = _unusable(entry, home, follow)
            if wrong:
                closed.append(Fault(entry.path, wrong))
            elif entry.is_dir():
                folders.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name
        left += reversed(folders)


def _unusable(entry: os.DirEntry[str], home: str, follow: bool) -> str:
    """What is wrong with an entry of a folder, or ""; only links are looked up."""
    if entry.is_symlink():
        real = os.path.realpath(entry.path)
        if not os.path.exists(real):  # noqa: PTH110 - no Path for each of a million files
            return "a link that points nowhere"
        if not follow and os.path.commonpath([home, real]) != home:
            return "a link that leads out of the folder"
    if not (entry.is_dir() or entry.is_file()):
        return "a file that is no regular file"
    return ""


def _plain_txt(name: str) -> bool:
    return name.endswith(".txt")  # Which counts where there is a .TXT beside it.


def _second_texts(root: Path, files: list[str], texts: dict[str, str]) -> list[Fault]:
    """A fault for each text file whose captions are not read, for another one has its name but for case or form."""
    second = [name for name in files if name.lower().endswith(".txt") and texts[composed(name[:-4])] != name]
    return [
        Fault(str(root / name), "a second text file of a picture", f"{texts[composed(name[:-4])]} counts")
        for name in second
    ]


def _from_name(name: str) -> list[tuple[str, Any]]:
    stem = name.rpartition("/")[2].rpartition(".")[0]
    return [(GROUND_TRUTH, re.sub(r"[-_. ]*\d*$", "", re.sub(r"[_\s]+", " ", stem)).replace("-", " "))]


def _from_text(root: Path, name: str, texts: dict[str, str]) -> list[tuple[str, Any]]:
    """The lines of a picture's text file; an empty file is an empty caption, and one that is not UTF-8 is none."""
    path = texts.get(composed(name.rpartition(".")[0]))
    if path is None:
        return []
    try:
        content = read_bytes(root / path, LONGEST_TEXT)
        lines = content.decode("utf-8-sig").replace("\r", "\n").split("\n")
    except OSError:  # Gone, or not to be read: as good as none.
        return []
    except InputError:
        return [(GROUND_TRUTH, b"\xff")]  # Refused below as no caption.
    except UnicodeDecodeError:
        return [(GROUND_TRUTH, content)]
    return [(GROUND_TRUTH, line) for line in filter(str.strip, lines)] or [(GROUND_TRUTH, "")]
