"""`unclip`: one command for everything. A command is imported when its words are parsed, so `--help` is quick."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.console.arguments import Parsers, parsed
from experiments.console.configs import LIGHTNING, check_config_file, config_files
from experiments.console.errors import EXIT_INPUT, complain, guarded, show_any_text
from experiments.console.freed_memory import keep_freed_memory
from experiments.console.lightning_help import help_page, wants_help_page
from experiments.console.signals import requeued_when_preempted

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "data": {
        "data": ("data.data", "check a data set, export it as a folder of real images, or get emoji of many styles"),
    },
    "own_data": {
        "new": ("own_data.new", "look at a data set, and write a suite that fits it"),
    },
    "embeddings": {
        "embed": ("embeddings.embed", "compute CLIP embeddings of a data set once, for the priors and the decoder"),
        "probe": ("embeddings.probe", "test what a CLIP's image embeddings hold, attribute by attribute"),
        "rank": ("embeddings.rank", "count the principal components of z_i that hold a share of its variance"),
    },
    "captioning": {
        "caption": ("captioning.caption", "write captions for the pictures of a data set, by a trained captioner"),
        "caption-report": ("captioning.measure", "count what captions get right, wrong, leave out and invent"),
        "reword": ("captioning.reword", "lengthen prompts, or change their form"),
        "study": ("captioning.study", "compare decoders that were trained on different captions (DALL-E 3)"),
    },
    "training": {
        "fit": ("training.fit", "train one stage: --config FILE.yaml [--KEY=VALUE ...] [--ckpt_path last]"),
        "validate": ("training.fit", "run a stage's validation loop"),
        "test": ("training.fit", "measure a stage's checkpoint on the test split"),
        "predict": ("training.fit", "write what a stage's checkpoint predicts for the test split"),
    },
    "importing": {
        "import": ("importing.import_weights", "make a run folder of released weights: Karlo, Kandinsky's prior, ..."),
    },
    "sampling": {
        "sample": ("sampling.sample", "draw images for one caption or a file of captions"),
        "mix": ("sampling.mix", "draw images of several pictures and captions at once, each with a weight"),
    },
    "demo": {
        "demo": ("demo.demo", "open a web page on which a run draws and edits pictures"),
    },
    "manipulations": {
        "invert": ("manipulations.invert", "find the latents (z_i, x_T) of pictures"),
        "reconstruct": ("manipulations.reconstruct", "invert pictures and draw them again"),
        "variations": ("manipulations.variations", "draw variations of pictures"),
        "interpolate": ("manipulations.interpolate", "blend pictures, or captions"),
        "text-diff": (
            "manipulations.text_diff",
            "change pictures by the difference of two captions; measure such edits",
        ),
        "complete": ("manipulations.tokens.complete", "keep the top rows of pictures, and let DALL-E draw the rest"),
        "codes": ("manipulations.tokens.codes", "show the codes of DALL-E's dVAE, and pictures as mosaics of them"),
        "inpaint": ("manipulations.inpaint", "draw a part of pictures anew"),
        "pca": ("manipulations.pca", "draw pictures from a growing number of principal components of z_i"),
        "typographic": (
            "manipulations.typographic",
            "write text over pictures; show CLIP's probabilities and variations",
        ),
        "conditioning-grid": (
            "manipulations.conditioning_grid",
            "draw captions under several conditions: caption only, z_t, a prior's z_i",
        ),
        "guidance-grid": ("manipulations.guidance_grid", "draw captions at growing guidance, beside GLIDE"),
        "gallery": ("manipulations.gallery", "make all these figures of a run, small, for its report"),
    },
    "evaluation": {
        "evaluate": ("evaluation.evaluate", "compare a folder of samples with a reference; writes metrics.json"),
        "blur": ("evaluation.blur", "compare samples with a reference after a growing blur of both"),
        "coco": ("evaluation.coco", "prepare a COCO folder for zero-shot evaluation"),
        "judge": ("evaluation.judge", "fit an aesthetic or a preference probe on CLIP embeddings of rated images"),
    },
    "sweeps": {
        "sweep": ("sweeps.sweep", "sample and measure under many settings: guidance, sampler, prior, ablation"),
    },
    "suites": {
        "reproduce": ("suites.reproduce", "run a suite of stages, side by side; resumes, re-runs only what changed"),
    },
    "costs": {
        "plan": ("costs.plan", "say what memory a stage's training takes on 1, 8, 64 devices, and what strategy fits"),
        "dalle1-table": ("costs.dalle1_table", "print the sizes of DALL-E 1's networks beside the paper's"),
        "table3": ("costs.table3", "print the paper's Table 3 (all hyperparameters), with counted FLOPs"),
    },
    "publishing": {
        "report": ("publishing.report", "write the tables and the report of a run"),
        "tables": (
            "publishing.tables",
            "write a run's Tables 1 (votes), 2 (FID), 3 and the ablation: Markdown, LaTeX, csv",
        ),
        "figures": ("publishing.figures", "write the paper's figures of a run, as PNG and SVG"),
        "votes": ("publishing.votes", "make a page on which people compare a run's models, for the paper's Table 1"),
        "export": ("publishing.export", "gather a run's trained stages in one folder: weights, configs, model cards"),
    },
}
"""The folder's name, its commands, and for each the module below `experiments` with a line of help.

The folder's `options.py` has the command's parser, the module its `run(options)`. LightningCLI parses for four of them.
"""

COMMANDS = {command: (module, line) for group in GROUPS.values() for command, (module, line) in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 2 means that what was given is wrong (one line on stderr says what), 130 interrupted, 75 stopped by a
    scheduler's signal (SIGTERM, SIGUSR1): start the same command again and it goes on. Tracebacks are shown for errors
    in the code, and for all errors when the environment variable UNCLIP_DEBUG is set.
    """
    show_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: answer(words))


def answer(words: list[str]) -> int:
    """Print the help or the version, or run a command."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else EXIT_INPUT
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"unclip {version('unclip')}")
        return 0
    return dispatch(words[0], words[1:])


def dispatch(command: str, words: list[str]) -> int:
    """Import and run `command`."""
    if command not in COMMANDS:
        return complain(unknown_command(command))
    configs = config_files([command, *words])
    if len(configs) > 1 and command not in (*LIGHTNING, "plan"):
        return complain(f"{command} reads one --config, not {' and '.join(configs)}: let one extend the other")
    for name in configs:
        check_config_file(Path(name))
    if command != "demo":  # which stays in memory between two pictures
        keep_freed_memory()
    if command == "fit":
        with requeued_when_preempted():
            return run_command(command, words)
    return run_command(command, words)


def run_command(command: str, words: list[str]) -> int:
    """Parse the words of `command`; then, and not before, import the command's module and run it."""
    module, _ = COMMANDS[command]
    if command in LIGHTNING:
        if wants_help_page(words):
            print(help_page(command))
            return 0
        return int(importlib.import_module(f"experiments.{module}").main([command, *words]))
    parsers: Parsers = importlib.import_module(f"experiments.{module.partition('.')[0]}.options").PARSERS
    options = parsed(parsers[command](), words)
    return int(importlib.import_module(f"experiments.{module}").run(options))


def unknown_command(command: str) -> str:
    """The line for a command that does not exist."""
    close = difflib.get_close_matches(command, COMMANDS, n=2, cutoff=0.5)
    guess = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return f"unknown command {command!r}{guess} (commands: {', '.join(COMMANDS)})"


def help_text() -> str:
    """The page of `unclip --help`."""
    lines = []
    for group, commands in GROUPS.items():
        lines += ["", f"{group.replace('_', ' ')}:", *(f"  {name:17} {text}" for name, (_, text) in commands.items())]
    return "\n".join(
        [
            "usage: unclip COMMAND ...",
            "",
            "Text to images by way of CLIP embeddings (unCLIP, DALL-E 2): train, sample, evaluate, reproduce.",
            *lines,
            "",
            "`unclip COMMAND --help` shows a command's options.",
            "`unclip reproduce experiments/quickstart/suite.yaml` runs everything.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
