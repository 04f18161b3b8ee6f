"""`unclip new`: a commented suite, fitted to a data set."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from experiments.data.check import faults_on_the_page
from experiments.own_data.choices import Choices, choose, pretrained_clip
from experiments.own_data.survey import Survey, look
from experiments.own_data.writing import suite_files
from experiments.suites.suite import load_suite
from modules.errors import InputError
from modules.untrusted.reading import printable

FEW = 2_000
"""Training pairs below which a model learns them by heart."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip new`; returns the exit code."""
    folder = Path(options.suite)
    if folder.suffix in (".yaml", ".yml"):
        raise InputError(f"{folder}: give a folder's name, as in {folder.with_suffix('')}; the suite is several YAMLs")
    for text in (options.suite, *([options.run] if options.run else [])):
        check_name(text)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder to write the suite into")
    suite = folder / "suite.yaml"
    if suite.exists() and not options.overwrite:
        raise InputError(f"{suite} is there already: choose another folder, or --overwrite it")
    pretrained = pretrained_clip(options.clip) if options.clip else None
    with faults_on_the_page():
        survey = look(options.data, options.captions_from, options.limit)
    choices = choose(survey, options.size, pretrained)
    run_folder = options.run or f"runs/{folder.resolve().name}"
    files = suite_files(survey, choices, folder, run_folder, pretrained)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    stages = load_suite(suite).stages
    print(printable_lines(told(options.data, survey, choices)))
    print(f"\n{folder}: suite.yaml with {len(stages)} stages, and a YAML for each of {len(files) - 2} trainings")
    place, whole = shlex.quote(str(folder)), shlex.quote(str(suite))
    print(f"look:  unclip data check {place}/data.yaml --out {place}/data.html")
    print(f"plan:  unclip reproduce {whole} --dry-run")
    print(f"run:   unclip reproduce {whole}      # ends with {run_folder}/report.html; goes on after an interruption")
    return 0


def check_name(text: str) -> None:
    """Refuse a folder's name that YAML, or the commands in a suite, would read as something else.

    Raises:
        InputError: says which characters there may be.
    """
    if not re.fullmatch(r"[\w./~+=@ -]+", text):
        raise InputError(
            f"{printable(text)}: the suite's YAMLs name this folder, so choose a name of letters, digits, spaces and "
            "any of . _ - + = @"
        )


def told(place: str, survey: Survey, choices: Choices) -> str:
    """The lines about what was found and chosen."""
    counts = ", ".join(f"{count:,} for {split}" for split, count in survey.sizes.items())
    own = f" ({' and '.join(survey.own_splits)} from separate sources)" if survey.own_splits else ""
    lines = [f"{place}: {survey.pairs:,} pairs: {counts}{own}"]
    if survey.faults:
        lines.append(f"  {survey.faults:,} pairs cannot be used; `unclip data check` names them")
    lines += [f"  {what}: {reason}" for what, reason in choices.reasons.items()]
    if survey.sizes["train"] < FEW:
        lines.append(
            f"  note: {survey.sizes['train']:,} training pairs are few, so the models may learn them by heart: compare "
            "the training and the validation loss, and take a pretrained CLIP (--clip)"
        )
    return "\n".join(lines)


def printable_lines(text: str) -> str:
    """A text whose control characters, which captions and paths may hold, are shown as escapes."""
    return "\n".join(printable(line) for line in text.split("\n"))
