"""`unclip`: one command for everything. A command is imported only when it runs, so that `--help` answers at once."""

from __future__ import annotations

import difflib
import errno
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.signals import requeued_when_preempted

LIGHTNING = ("fit", "validate", "test", "predict")

COMMANDS = {
    "fit": "train one stage: --config FILE.yaml [--KEY=VALUE ...] [--ckpt_path last]",
    "validate": "run a stage's validation loop",
    "test": "measure a stage's checkpoint on the test split",
    "predict": "write what a stage's checkpoint makes of the test split",
    "embed": "compute CLIP embeddings of a data set once, for the priors and the decoder",
    "probe": "test what a CLIP's image embeddings hold, attribute by attribute",
    "rank": "count the principal components of image embeddings that hold a share of their variance",
    "data": "check a data set, export it as a folder of real images, or get emoji of many styles",
    "sample": "draw images for one caption or a file of captions",
    "invert": "find the latents (z_i, x_T) of pictures",
    "reconstruct": "invert pictures and draw them again",
    "variations": "draw variations of pictures",
    "interpolate": "blend pictures, or captions",
    "text-diff": "change pictures by the difference of two captions; measure such edits",
    "inpaint": "draw a part of pictures anew",
    "pca": "draw pictures from ever more principal components of their embedding",
    "typographic": "write text over pictures: CLIP's probabilities beside variations",
    "conditioning-grid": "draw captions with ever more condition: caption only, z_t, a prior's z_i",
    "guidance-grid": "draw captions at growing guidance, beside GLIDE",
    "gallery": "make all these figures of a run, small, for its report",
    "evaluate": "compare a folder of samples with a reference; writes metrics.json",
    "sweep": "sample and measure under many settings: guidance, sampler, prior, ablation",
    "judge": "fit an aesthetic or a preference probe on CLIP embeddings of rated images",
    "coco": "prepare a COCO folder for zero-shot evaluation",
    "reproduce": "run a suite of stages, side by side; resumes, and re-runs only what changed",
    "plan": "say what memory a stage's training takes on 1, 8, 64 devices, and under which strategy it fits",
    "export": "gather a run's trained stages in one folder: weights, configs and model cards",
    "table3": "print the paper's Table 3 (all hyperparameters) from the paper-scale YAMLs, with counted FLOPs",
    "votes": "make a page on which people compare a run's models, for the paper's Table 1",
    "tables": "write a run's Tables 1 (votes), 2 (FID), 3 (its hyperparameters) and the ablation: Markdown, LaTeX, csv",
    "figures": "write the paper's figures of a run, as PNG and SVG",
    "report": "write the tables and the report of a run from what is there",
}

MANIPULATIONS = (
    "invert",
    "reconstruct",
    "variations",
    "interpolate",
    "text-diff",
    "inpaint",
    "pca",
    "typographic",
    "conditioning-grid",
    "guidance-grid",
    "gallery",
)
"""Commands that are modules of `experiments.manipulations`."""

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 2 means that what was given is wrong (one line on stderr says what), 130 interrupted, 75 stopped by a
    scheduler's signal (SIGTERM, SIGUSR1): start the same command again and it goes on. Tracebacks are shown for errors
    in the code, and for all errors when the environment variable UNCLIP_DEBUG is set.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else EXIT_INPUT
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"unclip {version('unclip')}")
        return 0
    return guarded(lambda: dispatch(words[0], words[1:]))


def dispatch(command: str, words: list[str]) -> int:
    """Import and run `command`."""
    if command not in COMMANDS:
        return complain(unknown_command(command))
    for name in config_files([command, *words]):
        check_config_file(Path(name))
    if command == "fit":
        with requeued_when_preempted():
            return run_command(command, words)
    return run_command(command, words)


def run_command(command: str, words: list[str]) -> int:
    """Import the module of `command` and call its `main`."""
    module = "lightning_cli" if command in LIGHTNING else command
    if command in MANIPULATIONS:
        module = f"manipulations.{command.replace('-', '_')}"
    run = importlib.import_module(f"experiments.{module}").main
    return int(run([command, *words] if command in LIGHTNING else words) or 0)


def guarded(run: Callable[[], int]) -> int:
    """Call `run` and turn what a person can put right into one line on stderr and an exit code."""
    try:
        return run()
    except KeyboardInterrupt:
        return complain("interrupted; the same command goes on from here where it can", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) has left. Python would complain once more while it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        line = input_error_line(error)
        if line is None or os.environ.get("UNCLIP_DEBUG"):
            raise
        return complain(line)


def input_error_line(error: Exception) -> str | None:
    """The line for a person if `error` is about what was given or about the machine, else None."""
    from eval.errors import InputError as EvalInputError
    from modules.errors import InputError

    # jsonargparse wraps what a constructor raises in a ValueError of its own.
    for cause in causes(error):
        if isinstance(cause, (InputError, EvalInputError)):
            return " ".join(str(cause).split())
    if isinstance(error, OSError):
        return os_error_line(error)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; each once: torch raises a dead loader's from itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def os_error_line(error: OSError) -> str:
    """One line that names the file and the way out."""
    name = error.filename2 or error.filename
    where = f" {str(name)!r}" if name is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing{where}: free some space, or choose an output folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"no permission for{where or ' a file'}: {error.strerror}; change its permissions or choose another folder"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"no such file or folder:{where or ' ' + str(error)}; check the path, or run the stage that makes it first"
        )
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return f"{error.strerror}:{where}; give another path"
    return " ".join(str(error).split())


def config_files(words: Sequence[str]) -> list[str]:
    """The values of --config (and of LightningCLI's -c) in the words of a command, its name first."""
    found = [word.split("=", 1)[1] for word in words if word.startswith("--config=")]
    flags = ("--config", "-c") if words[0] in LIGHTNING else ("--config",)
    return found + [value for flag, value in itertools.pairwise(words) if flag in flags]


def check_config_file(path: Path) -> None:
    """Open and parse a config: in milliseconds, before torch is imported.

    Raises:
        InputError: it is missing, unreadable, not YAML, or no mapping.
    """
    import yaml

    from modules.errors import InputError

    if path.is_dir():
        raise InputError(f"config {str(path)!r} is a folder; give a YAML file in it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"config {str(path)!r} does not exist{nearest_config(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"config {str(path)!r} cannot be read: {reason}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"config {str(path)!r} holds no settings: expected 'key: value' lines")


def nearest_config(path: Path) -> str:
    """'; did you mean ...?' if a YAML of a similar name is about, else a hint of where YAMLs are."""
    folder = path.parent if path.parent.is_dir() else Path("experiments")
    names = [str(other) for other in folder.rglob("*.yaml")] if folder.is_dir() else []
    close = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "; the suite's YAMLs are in experiments/"


def unknown_command(command: str) -> str:
    """The line for a command that does not exist."""
    close = difflib.get_close_matches(command, COMMANDS, n=2, cutoff=0.5)
    guess = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return f"unknown command {command!r}{guess} (commands: {', '.join(COMMANDS)})"


def help_text() -> str:
    """What `unclip --help` prints."""
    lines = [f"  {name:17} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unclip COMMAND ...",
            "",
            "Text to images by way of CLIP embeddings (unCLIP, DALL-E 2): train, sample, evaluate, reproduce.",
            "",
            "commands:",
            *lines,
            "",
            "`unclip COMMAND --help` shows a command's options.",
            "`unclip reproduce experiments/quickstart/suite.yaml` runs everything.",
        ]
    )


def complain(line: str, code: int = EXIT_INPUT) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"unclip: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
