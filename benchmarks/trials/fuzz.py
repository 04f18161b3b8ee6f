"""Fuzzers of what a stranger may send: `python -m benchmarks.trials.fuzz --examples 5000 [--only exports]`.

Each makes a valid input, changes some of it and has it read in a folder of its own. An example passes if it is read or
refused in one line (an InputError). It fails with any other exception, if a canary outside of the folder is read, or if
anything outside is written, started or imported (`watched`). tests/security runs the same with fewer examples.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CANARY = "canary-of-the-fuzzers"
"""Content of the file beside the folder; nothing that is read may hold it."""

ABSURD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        10**9,
        10**12,
        10**30,
        2**63,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "..",
        "../unclip-canary.png",
        "/etc/hostname",
        "a\0b",
        "\x1b]0;OWNED\x07",
        "x" * 5000,
        "\ud800",
        "${oc.env:HOME}",
        [],
        {},
        [[[[[[]]]]]],
        {"class_path": "subprocess.Popen", "init_args": {"args": "touch PWNED", "shell": True}},
        {"class_path": "logging.FileHandler", "init_args": {"filename": "PWNED"}},
        {"class_path": "torch.ao.quantization.DeQuantStub", "init_args": {"qconfig": {"class_path": "os.abort"}}},
        {"class_path": "modules.clip.frozen.FrozenCLIP", "init_args": {"name_or_folder": "/"}},
        "subprocess.Popen",
        "antigravity.geohash",
        "modules.networks.decoder.torch.nn.Linear",
    ]
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = ABSURD | st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""What a changed value may become."""


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a nest of mappings and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(place for key, value in inner for place in places(value, (*above, key)))]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A nest with the value at a place replaced."""
    if not place:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[place[0]] = changed(content[place[0]], place[1:], value)
    return copy


@st.composite
def mutated(draw: st.DrawFn, content: Any) -> Any:
    """A nest with one to three of its values replaced, or with a key more."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(content)))
        content = changed(content, place, draw(VALUES))
        if isinstance(content, dict) and draw(st.booleans()):
            content = {**content, draw(st.text(max_size=8)): draw(VALUES)}
    return content


DANGEROUS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_watching: list[tuple[str, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    allowed, seen = _watching[-1]
    if event in DANGEROUS:
        seen.append(f"{event} {arguments!r}"[:200])
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = str(Path(os.fsdecode(arguments[0])).absolute()), arguments[1], arguments[2]
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(mode and set(str(mode)) & set("wax+"))
        if writes and not path.startswith((allowed, "/dev/null")) and "__pycache__" not in path:
            seen.append(f"writes {path}")
        if "unclip-canary" in path:
            seen.append(f"reads {path}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(allowed: Path) -> Iterator[None]:
    """Fail if the block writes outside of `allowed`, opens the canary, starts a process or connects."""
    seen: list[str] = []
    _watching.append((f"{allowed.absolute()}", seen))
    try:
        yield
    finally:
        _watching.pop()
    if seen:
        raise AssertionError(f"the input led to: {seen[:3]}")


def read_or_refused(read: Callable[[], Any], folder: Path) -> None:
    """Read an input; anything but a result without the canary, or an InputError of one line, fails."""
    from eval.errors import InputError as EvalInputError
    from modules.errors import InputError

    with watched(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            found = read()
        except (InputError, EvalInputError) as error:
            assert len(str(error)) < 5000, f"a line of {len(str(error))} characters"
            return
    assert CANARY not in repr(found), "a file outside of the folder was read"


Fuzzer = tuple[st.SearchStrategy[Any], Callable[[Any], None], Any]
"""What is sent, what reads it, and one that is valid."""


class Fuzzers:
    """The fuzzers, by what is sent; each works in its own folder of `root`.

    Args:
        root: an empty folder.
        export: a stage's export that loads.
        clip: a CLIP's folder that loads.
    """

    def __init__(self, root: Path, export: Path, clip: Path) -> None:
        self.root = root
        (root / "unclip-canary.png").write_bytes(b"\x89PNG\r\n\x1a\n" + CANARY.encode())
        self.export = Path(shutil.copytree(export, root / "export"))
        self.clip = Path(shutil.copytree(clip, root / "clip"))

    def names(self) -> list[str]:
        """What can be fuzzed."""
        return ["exports", "clips", "manifests", "tables", "tars", "figures", "yaml", "records"]

    def exports(self) -> Fuzzer:
        """config.yaml of an export."""
        from modules.models.exports import load_model

        path = self.export / "config.yaml"
        valid = yaml.safe_load(path.read_text(encoding="utf-8"))

        def check(content: Any) -> None:
            path.write_text(yaml.safe_dump(content), encoding="utf-8", errors="surrogatepass")
            read_or_refused(lambda: load_model(self.export).fingerprint, self.export)

        return mutated(valid), check, valid

    def clips(self) -> Fuzzer:
        """open_clip_config.json and vocabulary.json of a CLIP's folder."""
        from modules.clip.folder import check_config, check_folder
        from modules.clip.frozen import load_tokenizer

        paths = [self.clip / name for name in ("open_clip_config.json", "vocabulary.json")]
        valid = [json.loads(path.read_text(encoding="utf-8")) for path in paths]

        def read() -> Any:
            check_config(self.clip)
            check_folder(self.clip, own=True)
            return load_tokenizer(self.clip)

        def check(content: Any) -> None:
            parts = content if isinstance(content, list) and len(content) == 2 else [content, valid[1]]
            for path, part in zip(paths, parts, strict=True):
                path.write_text(json.dumps(part), encoding="utf-8")
            read_or_refused(read, self.clip)

        return mutated(valid), check, valid

    def manifests(self) -> Fuzzer:
        """manifest.jsonl of a sample folder."""
        from PIL import Image

        from eval.samples.folder import MANIFEST, SampleFolder, write_samples

        folder = self.root / "samples"
        records = [
            {"caption": f"a {k}", "caption_index": k, "sample_index": 0, "condition": "ar_prior", "seed": 0}
            for k in range(3)
        ]
        pictures = [Image.new("RGB", (8, 8)) for _ in records]
        valid = write_samples(folder, iter(pictures), records).records

        def check(content: Any) -> None:
            lines = content if isinstance(content, list) else [content]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / MANIFEST).write_text(text, encoding="utf-8")
            read_or_refused(lambda: SampleFolder.open(folder).images(), folder)

        return mutated(valid), check, valid

    def tables(self) -> Fuzzer:
        """metadata.jsonl of a folder of pictures."""
        from PIL import Image

        folder = self.root / "pictures"
        folder.mkdir()
        for k in range(3):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(folder / f"{k}.png")
        valid = [{"file_name": f"{k}.png", "text": [f"a {k}", "b"]} for k in range(3)]

        def check(content: Any) -> None:
            lines = content if isinstance(content, list) else [content]
            text = "\n".join(json.dumps(line) for line in lines)
            (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
            read_or_refused(lambda: _pairs("image_folder.ImageFolderDataModule", folder), folder)

        return mutated(valid), check, valid

    def tars(self) -> Fuzzer:
        """The members of a shard: names, kinds, links, contents."""
        from PIL import Image

        png = io.BytesIO()
        Image.new("RGB", (8, 8)).save(png, "PNG")
        folder = self.root / "shards"
        folder.mkdir()
        kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
        names = st.sampled_from(["0.png", "0.txt", "1.png", "1.json", "../unclip-canary.png", "/x.txt", "a/b.txt"])
        contents = st.sampled_from([png.getvalue(), png.getvalue()[:40], b"a circle", b"\x80\x04."]) | st.binary(
            max_size=64
        )
        member = st.tuples(names | st.text(max_size=12), st.sampled_from(kinds), contents, st.integers(-64, 2**40))

        def check(members: Any) -> None:
            with tarfile.open(folder / "0.tar", "w", encoding="utf-8", errors="surrogateescape") as archive:
                for k in range(3):
                    for name, content in ((f"s{k}.png", png.getvalue()), (f"s{k}.txt", b"a circle")):
                        _add(archive, name, tarfile.REGTYPE, content, len(content))
                for name, kind, content, size in members:
                    _add(archive, name, kind, content, len(content) if size < 2**39 else size)
            read_or_refused(lambda: _pairs("webdataset.WebDatasetDataModule", folder), folder)

        return st.lists(member, max_size=4), check, []

    def figures(self) -> Fuzzer:
        """figure.json, and the page that is made of it."""
        from PIL import Image

        from eval.figures.folder import RECORD, FigureRecord, write_figure
        from eval.pages.manipulations import write_manipulations_page
        from eval.tables.main import Cell, Table

        run = self.root / "run"
        table = Table("t", ["a"], [[Cell("1")]], ["n"])
        record = FigureRecord("title", ["note"], [table], [], {"x": 1}, {"command": "c"})
        folder = write_figure(run / "manipulations" / "x", record, {"figure.png": Image.new("RGB", (4, 4))})
        valid = json.loads((folder / RECORD).read_text(encoding="utf-8"))

        def check(content: Any) -> None:
            (folder / RECORD).write_text(json.dumps(content), encoding="utf-8")

            def read() -> str | None:
                page = write_manipulations_page(run)
                return None if page is None else page.read_text(encoding="utf-8")

            read_or_refused(read, run)

        return mutated(valid), check, valid

    def yaml(self) -> Fuzzer:
        """Any text as a config."""
        from modules.untrusted.reading import parse_yaml

        parts = [
            "a",
            ": ",
            "- ",
            "&x ",
            "*x",
            "[",
            "]",
            "{",
            "}",
            "\n",
            "  ",
            "!!python/name:os.system",
            "<<: *x",
            "1" * 40,
            "'",
        ]

        def read(text: str) -> Any:
            try:
                return parse_yaml(text, "config.yaml")
            except yaml.YAMLError:
                return None

        pieces = st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=40).map("".join)
        return pieces, lambda text: read_or_refused(lambda: read(text), self.root / "yaml"), "a: 1"

    def records(self) -> Fuzzer:
        """metrics.json, sweeps, the probe and stage.json of a run, for its tables and for the runner."""
        from benchmarks.made_up_data import run_records

        run, valid = self.root / "records", run_records.records()

        def check(content: Any) -> None:
            run_records.write(run, content)
            read_or_refused(lambda: run_records.texts(run), run)
            read_or_refused(lambda: run_records.plan(run), run)

        return mutated(valid), check, valid

    def run(self, name: str, examples: int) -> None:
        """Try so many examples of a kind.

        Raises:
            AssertionError, or what the reader raised: at the smallest example that fails.
        """
        strategy, check, valid = getattr(self, name)()
        with contextlib.suppress(AssertionError):
            check(valid)  # What is imported when it is first needed is imported now.
        check(valid)
        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        rules = settings(
            max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=quiet
        )
        rules(given(strategy)(check))()


def _add(archive: tarfile.TarFile, name: str, kind: bytes, content: bytes, size: int) -> None:
    member = tarfile.TarInfo(name.replace("\0", "") or "x")
    member.type, member.linkname = kind, "../unclip-canary.png"
    member.size = size if kind == tarfile.REGTYPE else 0
    with contextlib.suppress(ValueError, UnicodeError):
        header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        assert archive.fileobj is not None
        archive.fileobj.write(header + (content + b"\0" * (-len(content) % 512) if kind == tarfile.REGTYPE else b""))
        archive.offset = archive.fileobj.tell()


def _pairs(module: str, folder: Path) -> Any:
    """Every pair of a data set: captions, and pictures."""
    from importlib import import_module

    from datamodules.faults import FaultPolicy
    from datamodules.pictures.module import SplitConfig

    name, _, kind = module.rpartition(".")
    options: dict[str, Any] = {
        "faults": FaultPolicy(max_skipped=1000),
        "splits": SplitConfig(val_share=0.0, test_share=0.0),
    }
    options["cache_dir"] = str(folder / ".cache")
    data = getattr(import_module(f"datamodules.{name}"), kind)(str(folder), image_size=8, batch_size=2, **options)
    dataset = data.dataset("train")
    batch = dataset.load(range(len(dataset)))[0]
    return data.captions("train"), None if batch is None else batch.images.sum()


def main() -> None:
    """Run the fuzzers that are asked for, and print what each took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument(
        "--run", type=Path, required=True, help="a run with the stages clip and linear_prior or decoder"
    )
    parser.add_argument("--stage", help="whose export is changed (default: linear_prior, or else decoder)")
    options = parser.parse_args()
    there = [name for name in ("linear_prior", "decoder") if (options.run / name / "export").is_dir()]
    stage = options.stage or there[0]
    with tempfile.TemporaryDirectory() as place:
        fuzzers = Fuzzers(Path(place), options.run / stage / "export", options.run / "clip" / "export")
        for name in fuzzers.names():
            if options.only in name:
                start = time.monotonic()
                fuzzers.run(name, options.examples)
                print(
                    f"{name}: {options.examples:,} examples, none failed, {time.monotonic() - start:.0f} s", flush=True
                )


if __name__ == "__main__":
    main()
