"""`unclip evaluate --logger`: an evaluated condition in any of Lightning's loggers that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from eval.runs import run_of
from experiments.console.import_wall import trust
from experiments.console.parser import Parser
from experiments.evaluation.board import EVALUATION, Evaluated
from experiments.training.fitting import constructing
from modules.errors import InputError
from modules.training.image_log import log_images
from modules.untrusted.reading import parse_yaml


def make_loggers(named: Sequence[str], samples: Path) -> list[Logger]:
    """The loggers of one sample folder.

    If their class has a name and a folder to write to, and the user gives none, they are given the sample folder's name
    and, for samples in a run, RUN/evaluation. Loggers of services connect when the first number is logged.

    Args:
        named: as the user wrote them: a class (`CSVLogger`), or YAML with its class_path and init_args.
        samples: the sample folder.

    Raises:
        InputError: no logger of that name, settings that it does not take, or a package that is missing.
    """
    return [_made(text, samples) for text in named]


def _made(text: str, samples: Path) -> Logger:
    try:
        section = parse_yaml(text, "--logger")
    except yaml.YAMLError as error:
        raise InputError(f"--logger {text!r} is no YAML ({' '.join(str(error).split())})") from error
    if isinstance(section, str):
        section = {"class_path": section}
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise InputError(f"--logger {text!r}: name a class, as in CSVLogger, or give class_path and init_args")
    trust(section)
    parser = Parser(prog="unclip evaluate")
    parser.add_subclass_arguments(Logger, "logger", required=True)
    given, wanted = section.get("init_args") or {}, _defaults(section["class_path"], samples)
    try:
        parsed = parser.parse_object({"logger": section})
    except InputError as error:
        try:  # Its class may require what we know.
            parsed = parser.parse_object({"logger": {**section, "init_args": {**wanted, **given}}})
        except InputError:
            raise error from None
    known = parsed.logger.init_args
    for key in wanted.keys() & known.keys() - given.keys():
        known[key] = wanted[key]
    with constructing():
        made: Logger = parser.instantiate(parsed).logger
    return made


def _defaults(class_path: str, samples: Path) -> dict[str, Any]:
    """What a logger is given where the user says nothing."""
    run = run_of(samples)
    found: dict[str, Any] = {"name": samples.name}
    if run is not None:
        found["save_dir"] = str(run / EVALUATION)
    if class_path.rpartition(".")[2] in (CSVLogger.__name__, TensorBoardLogger.__name__):
        found["version"] = ""  # Of others it is the number of a run to go on with.
    return found


def log_to_loggers(loggers: Sequence[Logger], evaluated: Evaluated) -> None:
    """Give every logger the settings and numbers of a condition, and its grid to those that can show it."""
    for logger in loggers:
        logger.log_hyperparams(evaluated.settings)
        logger.log_metrics(evaluated.metrics, step=0)
        if evaluated.grid is not None:
            pixels = torch.from_numpy(np.array(evaluated.grid)).permute(2, 0, 1)[None].float()
            log_images([logger], f"{EVALUATION}/samples", pixels / 127.5 - 1, 0)
        logger.finalize("success")
