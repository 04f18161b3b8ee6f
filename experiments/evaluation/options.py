"""The options of `unclip coco`, `evaluate` and `judge`, and of every command that measures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.console.arguments import CommandParser, Parsers, positive

PROTOCOL = Path(__file__).parents[1] / "protocols" / "coco.yaml"


def coco() -> argparse.ArgumentParser:
    """The options of `unclip coco`."""
    made = CommandParser(prog="unclip coco", description="Prepare a COCO folder for zero-shot evaluation.")
    made.add_argument("--annotations", required=True, help="JSON of captions, as annotations/captions_val2014.json")
    made.add_argument("--images", required=True, help="folder of its images, such as val2014")
    made.add_argument("--out", required=True, help="folder to write: captions.jsonl, reference/, protocol.json")
    made.add_argument("--protocol", default=str(PROTOCOL), help="YAML of the protocol (default: zero-shot, 30,000)")
    made.add_argument("--overwrite", action="store_true", help="replace an older export in --out")
    return made


def add_judges(
    made: argparse.ArgumentParser,
    required: bool = True,
    reference: str = "folder of real images: from `unclip data export`, or any other",
) -> None:
    """The options that say what is measured, and against what.

    Args:
        required: whether --reference has to be given.
        reference: the help of --reference.
    """
    made.add_argument("--reference", required=required, help=reference)
    made.add_argument(
        "--classifier",
        help="attribute classifier, for attribute accuracy, Frechet distance and diversity (if no judge is named and"
        " the samples or the reference lie in a run: the run's classifier and eval_clip)",
    )
    made.add_argument(
        "--clip",
        help="CLIP for the CLIP score: a folder, shipped:NAME or NAME:PRETRAINED, other than the CLIP of the samples",
    )
    made.add_argument("--inception", help="file of Inception weights, for FID (default: $UNCLIP_INCEPTION)")
    made.add_argument("--network", help="NAME or NAME=FILE of a timm network, for Frechet distance and recall")
    made.add_argument("--aesthetic", help="aesthetic probe that `unclip judge` wrote; needs its CLIP as --clip")
    made.add_argument("--preference", help="preference probe that `unclip judge` wrote; needs its CLIP as --clip")
    made.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME[=FILE]",
        help="a published metric, with the file of its weights (`unclip evaluate --list`); may be repeated",
    )
    made.add_argument("--weights", metavar="DIR", help="folder of published weights (default: $UNCLIP_WEIGHTS)")
    made.add_argument("--cache", help="folder to cache features in (default: RUN/features; '' for no cache)")


class EvaluateParser(CommandParser):
    """Answers --list, for which nothing else has to be given, with --weights before or behind it."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The options; with --list it prints what published metrics there are, and ends."""
        words = list(args or ())
        if "--list" in words:
            from eval.judges.published.listing import lines

            only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            only.add_argument("--weights")
            print("\n".join(lines(only.parse_known_args(words)[0].weights)))
            self.exit()
        return super().parse_known_args(args, namespace)


def evaluate() -> argparse.ArgumentParser:
    """The options of `unclip evaluate`."""
    made = EvaluateParser(prog="unclip evaluate", description="Measure samples against real images.")
    made.add_argument("--list", action="store_true", help="print all metrics, the files they need, and which are here")
    made.add_argument(
        "samples", nargs="+", help="folders with the same number of pictures: from `unclip sample`, or any other"
    )
    made.add_argument(
        "--captions", metavar="FILE", help="captions, for folders that have none: .jsonl, .csv, .tsv, .parquet"
    )
    made.add_argument("--size", type=positive, help="resize all pictures to this short side, and keep the centre")
    made.add_argument(
        "--processes", type=positive, default=1, help="processes that compute features, a device for each (default 1)"
    )
    made.add_argument("--csv", metavar="FILE", help="also write a csv: condition, metric, value, low, high, n")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    real = "folder of real images: from `unclip data export`, or any other; without it, distances are left out"
    add_judges(made, required=False, reference=real)
    made.add_argument("--bootstrap", type=int, default=1000, help="resamples for the 95%% intervals (default 1000)")
    made.add_argument("--seed", type=int, default=0, help="seed of the resamples (default 0)")
    made.add_argument(
        "--statistics",
        action="append",
        default=[],
        metavar="FILE.npz",
        help="mean and covariance of real images, for Frechet distances, instead of --reference; may be repeated",
    )
    made.add_argument("--write-statistics", metavar="DIR", help="write such files from --reference, one a network")
    other = "accept samples of other captions than those of the reference's protocol (`unclip coco`)"
    made.add_argument("--other-captions", action="store_true", help=f"{other}; the row says so")
    made.add_argument("--out", help="file to write (default: metrics.json in each sample folder)")
    made.add_argument(
        "--logger",
        action="append",
        default=[],
        metavar="CLASS",
        help="a logger of Lightning for the numbers, beside TensorBoard: CSVLogger, WandbLogger, ..., or YAML with"
        " class_path and init_args; may be repeated",
    )
    return made


def judge() -> argparse.ArgumentParser:
    """The options of `unclip judge`."""
    made = CommandParser(prog="unclip judge", description="Fit a probe on CLIP embeddings of rated images.")
    made.add_argument("kind", choices=("aesthetic", "preference"), help="what the probe predicts")
    made.add_argument(
        "--csv", required=True, help="aesthetic: columns image,rating, or AVA.txt; preference: columns better,worse"
    )
    made.add_argument("--images", required=True, help="folder of the images that the csv names")
    made.add_argument(
        "--clip", required=True, help="CLIP folder, shipped:NAME or NAME:PRETRAINED; evaluate with the same one"
    )
    made.add_argument("--out", required=True, help="JSON file to write, for `unclip evaluate --aesthetic`")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    return made


def blur() -> argparse.ArgumentParser:
    """The options of `unclip blur`."""
    made = CommandParser(
        prog="unclip blur", description="Measure the Frechet distance after a Gaussian blur of samples and real images."
    )
    made.add_argument("samples", nargs="+", help="sample folders with the same number of samples")
    made.add_argument("--run", required=True, help="run folder, whose judges are used; blur.json is written into it")
    made.add_argument(
        "--radii", nargs="+", type=float, default=[0, 1, 2, 4, 8], help="radii in pixels (default: 0 1 2 4 8)"
    )
    made.add_argument("--bootstrap", type=positive, default=200, help="resamples for the 95%% intervals (default 200)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    add_judges(made, required=False, reference="real images (default: RUN/samples/reference)")
    return made


PARSERS: Parsers = {"blur": blur, "coco": coco, "evaluate": evaluate, "judge": judge}
