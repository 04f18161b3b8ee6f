"""`unclip evaluate`: measures folders of samples against a folder of real images; writes metrics.json into each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.arguments import CommandParser
from experiments.progress import Progress, progress
from modules.errors import InputError

if TYPE_CHECKING:
    from eval.features import CLIPExtractor
    from eval.judges import Judges
    from eval.measure import Reference
    from eval.reference import ReferenceStatistics
    from eval.samples import SampleFolder
    from eval.tables import Table

LOG_WIDTH = 116


def main(argv: list[str]) -> int:
    """Runs `unclip evaluate ...`; returns the exit code."""
    options = parser().parse_args(argv)
    from eval.files import require_place, write_files
    from eval.judges import look
    from eval.measure import check_comparable, content_shared, measure, read_reference
    from eval.protocol import require_protocol
    from eval.samples import SampleFolder
    from eval.tables import main_table

    if options.bootstrap < 1:
        raise InputError(f"--bootstrap must be 1 or more, got {options.bootstrap}")
    if options.seed < 0:
        raise InputError(f"--seed must be 0 or more, got {options.seed}")
    targets = metrics_paths(options.samples, options.out)
    folders = [SampleFolder.open(path) for path in options.samples]
    real = SampleFolder.open(options.reference)
    check_comparable(folders, real)
    for folder in [] if options.other_captions else folders:
        require_protocol(folder.records, folder.path, real.path)
    for target in [*targets, *statistics_paths(options.write_statistics, ["any"]).values()]:
        require_place(target)
    run = next((run for run in map(run_of, (real.path, *(folder.path for folder in folders))) if run is not None), None)
    if run is not None and not named_judges(options):
        judges_of(run, options)
    judges = make_judges(options, folders)
    statistics = read_statistics(options.statistics, real, judges)
    rows = []
    bar: Progress[int] = progress(len(real) + sum(map(len, folders)), "evaluating")
    with bar, feature_folder(options.cache, [real.path, *(folder.path for folder in folders)]) as cache:
        reference = read_reference(real, judges, tick=bar.advance, cache=cache)
        written = statistics_files(options.write_statistics, reference, judges)
        reference = with_statistics(statistics, reference)
        for folder in folders:
            seen = look(folder, judges, tick=bar.advance, cache=cache)
            row = measure(folder, seen, judges, reference, options.bootstrap, options.seed)
            rows.append({**row, "shared_with_reference": content_shared(folder, real)})
    table = main_table(rows)
    texts = [json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_files({**written, **dict(zip(targets, texts, strict=True))})
    for folder, row in zip(folders, rows, strict=True):
        log_to_board(folder, row)
    show(table)
    return 0


def metrics_paths(samples: list[str], out: str | None) -> list[Path]:
    """Where the metrics of each sample folder go."""
    if out is None:
        return [Path(folder) / "metrics.json" for folder in samples]
    if len(samples) > 1:
        raise InputError(
            "--out names one file; evaluate one folder at a time, or leave it out: each gets a metrics.json"
        )
    return [Path(out)]


def named_judges(options: argparse.Namespace) -> bool:
    """Whether a network was named that looks at images."""
    from eval.features import find_inception

    return any((options.classifier, options.clip, options.network, find_inception(options.inception)))


def judges_of(run: Path, options: argparse.Namespace) -> None:
    """Names the run's own classifier and its CLIP for evaluation, where it has them and no other is named."""
    options.classifier = options.classifier or existing(run / "classifier")
    options.clip = options.clip or existing(run / "eval_clip" / "export")


def existing(folder: Path) -> str | None:
    """A folder's name, if it is there."""
    return str(folder) if folder.is_dir() else None


def make_judges(options: argparse.Namespace, folders: list[Any]) -> Judges:
    """Loads the networks that look at the images.

    Raises:
        InputError: one of them is not there, none was given, or the CLIP is the one that the samples were made with.
    """
    from eval.aesthetics import LinearProbe
    from eval.attributes import load_classifier
    from eval.features import AttributeExtractor, InceptionExtractor, clip_folder, find_inception
    from eval.judges import Judges
    from eval.timm_features import make_network

    device = accelerator()
    weights = find_inception(options.inception)
    named = clip_folder(options.clip) if options.clip else None
    if named is not None:
        refuse_conditioning_clip(named, folders)
    clip = make_clip(named, device) if named is not None else None
    if named is not None and clip is not None:
        refuse_named_clip(named, clip, folders)
    probes = {
        kind: LinearProbe.load(getattr(options, kind), kind, clip.name if clip else None)
        for kind in ("aesthetic", "preference")
        if getattr(options, kind)
    }
    return Judges(
        classifier=AttributeExtractor(load_classifier(options.classifier), device) if options.classifier else None,
        clip=clip,
        inception=InceptionExtractor(weights, device) if weights else None,
        network=make_network(options.network, device) if options.network else None,
        **probes,
    )


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
    for name, judge in judges.extractors().items():
        if protocol.get("extractor") == judge.name and protocol.get("resizing") == judge.resizing:
            return name
    here = "; ".join(f"{judge.name} ({judge.resizing})" for judge in judges.extractors().values())
    raise InputError(
        f"{path} holds statistics by {protocol.get('extractor')} ({protocol.get('resizing')}), measured is by {here}:"
        " name that network too (--inception, --network, --classifier, --clip), or make the statistics by these"
    )


def statistics_paths(folder: str | None, names: Iterable[str]) -> dict[str, Path]:
    """Network -> the file for its statistics: FOLDER/inception.npz and so on; none without a folder."""
    from eval.reference import SUFFIX

    return {name: Path(folder) / f"{name}{SUFFIX}" for name in names} if folder else {}


def statistics_files(folder: str | None, reference: Reference, judges: Judges) -> dict[Path, str | bytes]:
    """File -> content: the statistics of the real images themselves, by each network."""
    from eval.reference import ReferenceStatistics

    written: dict[Path, str | bytes] = {}
    for name, path in statistics_paths(folder, judges.extractors()).items():
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


def feature_cache(named: str | None, *folders: Path) -> Path | None:
    """Where features are kept: the folder that was named, or RUN/features of the first of these folders in a run.

    Returns:
        None where '' was named, or none of them is in a run.
    """
    if named is not None:
        return Path(named) if named else None
    return next((run / "features" for run in map(run_of, folders) if run is not None), None)


@contextmanager
def feature_folder(named: str | None, folders: Sequence[Path]) -> Iterator[Path]:
    """`feature_cache`, or a folder in the system's temporary one that goes afterwards.

    Features are always memory maps, for memory has to hold whatever the number of images, and wherever they lie.
    """
    cache = feature_cache(named, *folders)
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory(prefix="unclip-features-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def make_clip(name: str, device: str) -> CLIPExtractor:
    """The CLIP in a folder, or open_clip's NAME:PRETRAINED, with its tokeniser."""
    from eval.features import clip_folder, load_clip
    from modules.clip import load_tokenizer

    name, pretrained = clip_folder(name), None
    if not Path(name).is_dir() and ":" in name:
        name, pretrained = name.split(":", 1)
    extractor = load_clip(name, pretrained, device=device)
    extractor.tokenizer = load_tokenizer(name)
    return extractor


def refuse_conditioning_clip(clip: str, folders: list[Any]) -> None:
    """A CLIP that gave the embeddings would judge its own work.

    Raises:
        InputError: its weights are those of the run that a folder belongs to.
    """
    weights = "open_clip_model.safetensors"
    judge = Path(clip) / weights
    for folder in folders:
        run = run_of(folder.path)
        own = None if run is None else run / "clip" / "export" / weights
        if own is not None and own.is_file() and judge.is_file() and own.read_bytes() == judge.read_bytes():
            raise InputError(f"--clip {clip} is the CLIP that {folder.path} was made with; judge with another")


def refuse_named_clip(name: str, clip: CLIPExtractor, folders: list[Any]) -> None:
    """The same by the manifests, which name the CLIP: samples may lie outside the run that made them.

    Raises:
        InputError: a folder was made with this CLIP.
    """
    for folder in folders:
        if any(str(record.get("clip", "")).startswith(clip.fingerprint) for record in folder.records):
            raise InputError(f"--clip {name} is the CLIP that {folder.path} was made with; judge with another")


def run_of(samples: Path) -> Path | None:
    """The run folder RUN of RUN/samples/NAME; None for a folder elsewhere."""
    samples = samples.absolute()
    return samples.parent.parent if samples.parent.name == "samples" else None


def log_to_board(folder: SampleFolder, row: dict[str, Any]) -> None:
    """Shows a row in the TensorBoard of the run that the samples belong to, if they do."""
    run = run_of(folder.path)
    if run is not None:
        from eval.samples import GRID
        from experiments.boards import log_evaluation

        log_evaluation(run, folder.path.name, row, folder.records[0], folder.path / GRID)


def accelerator() -> str:
    """The name of the device to compute on: an accelerator where there is one."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cpu"


def show(table: Table) -> None:
    """Prints a table; into a log, as wide as most terminals that it will be read on."""
    from rich.console import Console

    console = Console()
    table.print(console if console.is_terminal else Console(width=LOG_WIDTH))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = CommandParser(prog="unclip evaluate", description="Measure samples against real images.")
    made.add_argument("samples", nargs="+", help="sample folders, of equally many samples")
    add_judges(made)
    made.add_argument("--bootstrap", type=int, default=1000, help="draws for the 95%% intervals (default 1000)")
    made.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    made.add_argument(
        "--statistics",
        action="append",
        default=[],
        metavar="FILE.npz",
        help="of other real images than --reference, to compute FID or the Frechet distance against; may be repeated",
    )
    made.add_argument("--write-statistics", metavar="DIR", help="write such files from --reference, one a network")
    other = "measure samples of other captions than those that the protocol of the reference (`unclip coco`) drew"
    made.add_argument("--other-captions", action="store_true", help=f"{other}; the row says so")
    made.add_argument("--out", help="file to write (default: metrics.json in each sample folder)")
    return made


def add_judges(made: argparse.ArgumentParser) -> None:
    """The options that say what is measured, and against what."""
    made.add_argument("--reference", required=True, help="sample folder of real images (`unclip data export`)")
    made.add_argument(
        "--classifier",
        help="attribute classifier: attribute accuracy, Frechet distance, diversity (with no judge named: the run's"
        " classifier and eval_clip, where the samples or the reference lie in a run)",
    )
    made.add_argument("--clip", help="CLIP for the CLIP score: a folder or NAME:PRETRAINED; not the conditioning one")
    made.add_argument("--inception", help="file of Inception weights, for FID (default: $UNCLIP_INCEPTION)")
    made.add_argument("--network", help="a network of timm as NAME or NAME=FILE: Frechet distance and recall by it")
    made.add_argument("--aesthetic", help="aesthetic probe (`unclip judge`), read with --clip")
    made.add_argument("--preference", help="preference probe (`unclip judge`), read with --clip")
    made.add_argument("--cache", help="folder to keep features in (default: RUN/features; '' to keep none)")
