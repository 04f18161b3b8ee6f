"""The options of `unclip caption`, `caption-report`, `reword` and `study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.console.arguments import SPLITS, CommandParser, Parsers, positive
from experiments.data.options import add_arguments

SHARD_ROWS = 65_536
FORMS = ("leading_space", "upper_case", "capital", "full_stop", "no_article", "unrelated_word")
"""Changes of a prompt's form that leave its meaning."""


def caption() -> argparse.ArgumentParser:
    """The options of `unclip caption`."""
    made = CommandParser(prog="unclip caption", description="Write captions for the pictures of a data set.")
    add_arguments(made)
    made.add_argument(
        "--captioner", required=True, help="stage of a trained captioner, or a folder with a captioner of transformers"
    )
    made.add_argument(
        "--out", required=True, help="folder to write, or to go on with; a YAML names it in captions.added"
    )
    made.add_argument("--clip", help="the captioner's CLIP (default: the CLIP of the captioner's run)")
    made.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits (default: all)")
    made.add_argument(
        "--temperature", type=float, help="sampling temperature; 0 takes the likeliest word (default: the stage's)"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of sampling, if the temperature is above 0 (default 0)")
    made.add_argument("--batch-size", type=positive, default=256, help="pictures at once (default 256)")
    made.add_argument("--num-workers", type=int, help="loader processes (default: the YAML's, else 0)")
    made.add_argument(
        "--shard-rows", type=positive, default=SHARD_ROWS, help="captions in a file (default %(default)s)"
    )
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    made.add_argument("--devices", type=positive, default=1, help="devices of this kind on each machine (default 1)")
    made.add_argument("--num-nodes", type=positive, default=1, help="number of machines (default 1)")
    made.add_argument("--strategy", default="auto", help="Lightning's strategy for several devices (default auto)")
    made.add_argument("--precision", default="32-true", help="Lightning's precision, such as bf16-mixed")
    made.add_argument("--overwrite", action="store_true", help="replace captions of another captioner or other pairs")
    return made


def caption_report() -> argparse.ArgumentParser:
    """The options of `unclip caption-report`."""
    made = CommandParser(prog="unclip caption-report", description="Measure the captions of a data set, by source.")
    add_arguments(made)
    made.add_argument("--split", choices=SPLITS, default="val", help="split to measure (default %(default)s)")
    made.add_argument("--limit", type=positive, help="pairs to look at (default: all)")
    made.add_argument("--shown", type=positive, default=8, help="pairs whose captions TensorBoard shows (default 8)")
    made.add_argument("--out", type=Path, required=True, help="folder to write: report.json, report.md, TensorBoard")
    return made


def reword() -> argparse.ArgumentParser:
    """The options of `unclip reword`."""
    made = CommandParser(prog="unclip reword", description="Lengthen prompts, or change their form.")
    made.add_argument(
        "prompts", type=Path, help="manifest.jsonl of a sample folder, or any file for `unclip sample --captions`"
    )
    made.add_argument("--out", type=Path, required=True, help=".jsonl to write, for `unclip sample --captions`")
    ways = made.add_mutually_exclusive_group(required=True)
    ways.add_argument("--form", choices=FORMS, help="change the form of the prompts, not their meaning")
    ways.add_argument("--lengthen", action="store_true", help="add by template what a prompt leaves open (shapes)")
    ways.add_argument("--model", metavar="FOLDER", help="lengthen by a language model of transformers in this folder")
    made.add_argument("--seed", type=int, default=0, help="chooses what --lengthen adds (default 0)")
    made.add_argument("--device", help="device of --model, such as cpu or cuda:1 (default: the accelerator, if any)")
    return made


def study() -> argparse.ArgumentParser:
    """The options of `unclip study`."""
    made = CommandParser(prog="unclip study", description="Compare decoders that were trained on different captions.")
    made.add_argument("run", type=Path, help="run folder of experiments/dalle3/suite.yaml")
    made.add_argument("--bootstrap", type=positive, default=1000, help="resamples for the intervals (default 1000)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    return made


PARSERS: Parsers = {"caption": caption, "caption-report": caption_report, "reword": reword, "study": study}
