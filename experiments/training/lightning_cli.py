"""`unclip fit | validate | test | predict`: LightningCLI, with defaults that keep a stage's YAML short.

A stage's YAML has to hold `trainer.default_root_dir` (the run folder), `trainer.max_steps`, `model` and `data`; what
else the Trainer accepts may stand there too. `${key.of.another.setting}` is interpolated after all files and command
line arguments have been put together. The full list, with defaults: `unclip fit --config FILE --print_config`.
"""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.console.parser import Parser
from experiments.storage.folders import sync_tree
from experiments.training.boards import HyperParameters
from experiments.training.bound_report import BoundReport
from experiments.training.callbacks import Announce, FitProgress
from experiments.training.checkpoints import AtomicCheckpointIO, Checkpoints, RandomState
from experiments.training.config_checks import check_data, check_settings
from experiments.training.fitting import check_checkpoint, check_widths, constructing, missing_package, restoring
from experiments.training.predictions import WritePredictions, check_place
from experiments.training.stage_folder import RunFolder
from experiments.training.stopping import StopSignals
from experiments.training.trainer.closing import closing
from experiments.training.trainer.endings import Ending
from experiments.training.trainer.log_file import tell
from experiments.training.trainer.switches import check_settings_of_trainer, check_trainer, seed_in_range
from modules.clip.origin import KEY
from modules.errors import InputError
from modules.training.initial import Here, compare, read_source, source_file, start_from
from modules.training.stage import Stage

TRAINER_DEFAULTS = {
    "accelerator": "auto",
    "devices": 1,
    # One pass of Lightning's loop is the whole run, so validation counts steps, not passes over the data.
    "check_val_every_n_epoch": None,
    "val_check_interval": 1000,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 20,
    # Data modules bring their own sampler, which knows its rank.
    "use_distributed_sampler": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class CLI(LightningCLI):
    """LightningCLI for one command. Only that command's parser is built, so that YAML keys are the top level."""

    def __init__(self, command: str, words: list[str]) -> None:
        self.command = command
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={"prog": f"unclip {command}", "description": f"Lightning's {command}, for one stage."},
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=words,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        if self.command == "validate":
            parser.add_lightning_class_args(BoundReport, "bound")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint to go on from, or 'last': the run folder's own if it is there, else from the start.",
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Start from these weights: the folder of a trained stage, as in runs/quickstart/decoder, or a file.",
        )
        parser.add_argument(
            "--strict",
            type=bool,
            default=True,
            help="Whether weights of init_from that do not fit are refused; otherwise they are listed and left out.",
        )
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="Accept a run folder that holds a run already; without --ckpt_path its content is moved to .previous.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        seed = self.config.seed_everything
        if not seed_in_range(seed):
            raise InputError(f"seed_everything is {seed}: give a whole number from 0 to {2**32 - 1}")

    def before_instantiate_classes(self) -> None:
        """Refuse what can be refused before anything is built."""
        trainer = self.config.trainer
        if not hasattr(trainer, "default_root_dir"):
            raise InputError(f"trainer holds settings, as in trainer: {{max_steps: 100}}, not {trainer!r}")
        self.folder = RunFolder(Path(trainer.default_root_dir or "."))
        if self.command in ("fit", "predict") and trainer.default_root_dir is None:
            raise InputError("trainer.default_root_dir is not set: name the run folder, as in runs/quickstart/clip")
        if (
            self.command == "fit"
            and trainer.max_steps == -1
            and trainer.max_epochs is None
            and trainer.max_time is None
        ):
            raise InputError("trainer.max_steps is not set: say how many optimiser steps to train")
        if self.command in ("test", "predict") and self.config.ckpt_path is None:
            raise InputError(
                f"--ckpt_path is not set, so {self.command} would look at untrained weights: give a checkpoint, or "
                "'last' for the run folder's own"
            )
        check_settings_of_trainer(self.command, vars(trainer))
        self.trial = self.command == "fit" and bool(trainer.fast_dev_run)
        self.ckpt_path = self.folder.checkpoint(self.config.ckpt_path, must_exist=self.command != "fit")
        if self.starts_from is not None:
            source_file(self.starts_from)
        if self.command == "fit" and not self.trial:  # A trial writes nothing.
            self.folder.check(self.dump(), self.ckpt_path, self.config.overwrite, self.completed)
        if self.command == "predict":
            check_place(self.folder.path, self.config.overwrite)

    @property
    def starts_from(self) -> str | None:
        """The weights that a new training starts from; None for one that goes on, and for other commands."""
        found: str | None = self.config.init_from
        return found if self.command == "fit" and self.ckpt_path is None else None

    def instantiate_classes(self) -> None:
        """Build model, data and Trainer."""
        with constructing():
            super().instantiate_classes()

    def dump(self, config: Any = None) -> dict[str, Any]:
        """The whole configuration, defaults included, as plain values; `config` is another parsed one."""
        skip = [action.dest for action in self.parser._actions if isinstance(action, ActionConfigFile)]
        content = yaml.safe_load(self.parser.dump(config or self.config, skip_unset=False, format="yaml"))
        skip += ["ckpt_path", "overwrite", *(() if content.get("init_from") else ("init_from", "strict"))]
        return {key: value for key, value in content.items() if key not in skip}

    def completed(self, content: dict[str, Any]) -> dict[str, Any]:
        """A run's config.yaml with the settings that came after it at their defaults, which are what it ran with."""
        try:
            return self.dump(self.parser.parse_object(content))
        except Exception:  # Settings that are no longer there: compared as they stand.
            return content

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with atomic checkpoints, TensorBoard in the run folder and this package's callbacks."""
        config = self.config_init.trainer
        plugins = config.plugins or []
        plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        logger = config.logger
        if logger in (None, True):
            logger = TensorBoardLogger(self.folder.path, name="", version="") if self.command == "fit" else False
        self.trainer_defaults = {
            **self.trainer_defaults,
            "callbacks": [RandomState(), Announce(), FitProgress(), StopSignals(), HyperParameters(), Ending()],
        }
        if self.command == "predict":
            self.trainer_defaults["callbacks"].append(WritePredictions(self.folder.path))
        try:
            return super().instantiate_trainer(plugins=plugins, logger=logger, **kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise InputError(f"trainer: {error}") from error
        except ImportError as error:
            raise InputError(f"trainer: {missing_package(error)}") from error

    def run(self) -> None:
        """Do what the command says.

        Raises:
            InputError: model, data and checkpoint do not go together; nothing has been written then.
        """
        check_trainer(self.trainer, self.model, self.datamodule)
        check_widths(self.model, self.datamodule)
        splits = {"fit": ("train", "val"), "validate": ("val",)}.get(self.command, ("test",))
        check_data(self.model, self.datamodule, splits)
        if self.command == "fit" and self.ckpt_path is None:
            check_settings(self.model, self.datamodule, self.trainer.world_size)
        check_checkpoint(self.ckpt_path, self.model)
        if self.command == "fit" and isinstance(self.model, Stage):
            self.model.check_start()
        if self.starts_from is not None:
            self._start_from(self.starts_from)
        if self.command != "fit" or self.trial or getattr(rank_zero_only, "rank", 0) > 0:
            self._call_trainer()
            return
        with self.folder.hold():
            self.folder.prepare(self.dump(), start_again=self.ckpt_path is None)
            began = time.monotonic()
            try:
                self._call_trainer()
            except OSError:  # Most often of a logger, whose file has gone with the folder.
                self.folder.check_still_there()
                raise
            self.folder.check_still_there()
            sync_tree(self.folder.path / "export")  # Before the runner notes that the stage is done.
            tell(self.trainer, closing(self.trainer, self.model, self.folder.path, time.monotonic() - began))

    def _start_from(self, path: str) -> None:
        """Give the model the weights of `init_from`, after a list of all that does not fit.

        Raises:
            InputError: something does not fit, and `strict` is not false; or nothing fits.
        """
        source = read_source(path)
        words = self.datamodule.vocabulary() if source.words is not None else None
        here = Here(self.dump()["model"].get("init_args") or {}, getattr(self.datamodule, KEY, None), words)
        fit = compare(source, self.model, here)
        for line in fit.problems:
            rank_zero_only(print)(f"init_from: {line}", flush=True)
        if fit.problems and self.config.strict:
            raise InputError(
                f"init_from: {source.path} does not fit this config in {len(fit.problems)} places, which are listed "
                "above: make the config that of the weights, or take what fits with strict: false"
            )
        start_from(self.model, source, fit)
        rank_zero_only(print)(f"init_from: {len(fit.taken)} tensors of {source.path}", flush=True)

    def _call_trainer(self) -> None:
        path = None if self.ckpt_path is None else str(self.ckpt_path)
        method = getattr(self.trainer, self.command)
        # AtomicCheckpointIO insists on weights_only anyway; newer versions of Lightning remark when it is not given.
        options = {"weights_only": True, "return_predictions": False}
        options = {name: value for name, value in options.items() if name in inspect.signature(method).parameters}
        with restoring(self.ckpt_path):
            method(self.model, datamodule=self.datamodule, ckpt_path=path, **options)
