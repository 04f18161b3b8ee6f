"""The folder of one training run: what may be written into it, so that nothing is lost by mistake."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment

from experiments.storage.folders import PREVIOUS, set_aside, write_text
from experiments.storage.holding import LOCK, holding
from experiments.storage.settings import differences
from experiments.training.checkpoint_files import check_readable, kept, newest_sound, tidy
from experiments.training.checkpoints import LAST
from modules.aliases import today
from modules.errors import InputError
from modules.untrusted.reading import read_yaml

CONFIG = "config.yaml"
LOCKS = ".locks"

Complete = Callable[[dict[str, Any]], dict[str, Any]]
"""Adds to a configuration the settings that it does not name, with their defaults."""

COSMETIC = (
    "checkpoint",
    "trainer.callbacks",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.profiler",
)
"""Settings that change nothing in what is trained."""


def from_the_run(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the paths in its run (beside its own run folder) named from there.

    A run that was moved as a whole is then the same one.
    """
    trainer = config.get("trainer")
    root = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    above = os.path.dirname(os.path.normpath(root)) if isinstance(root, str) else ""  # noqa: PTH120 - text, no file
    return config if not above else _renamed(config, above)


def _renamed(content: Any, above: str) -> Any:
    if isinstance(content, dict):
        return {key: _renamed(value, above) for key, value in content.items()}
    if isinstance(content, list):
        return [_renamed(value, above) for value in content]
    if isinstance(content, str) and (content.startswith(f"{above}/") or (content == above and "/" in above)):
        return "RUN" + content[len(above) :]  # A single word may be a path's or any other: train_split: train.
    return content


class RunFolder:
    """One run folder: `config.yaml` and `checkpoints/last.ckpt` say what run it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def last(self) -> Path:
        """The run's own last checkpoint."""
        return self.path / LAST

    def hold(self) -> AbstractContextManager[None]:
        """While this lasts, no other `unclip fit` trains into the folder.

        Raises:
            InputError: another one does; the message says which.
        """
        # Beside the folder, which `prepare` may move; where that cannot be, it will not move it either.
        path = self.path.absolute()
        inside = path.is_dir() and not os.access(path.parent, os.W_OK)
        lock = path / LOCK if inside else path.parent / LOCKS / f"{path.name}.fit"
        way_out = "wait for it, end it, or choose another trainer.default_root_dir"
        return holding(lock, f"run folder {str(self.path)!r}", way_out)

    def checkpoint(self, wanted: str | None, must_exist: bool) -> Path | None:
        """The checkpoint that `--ckpt_path` means; None is a start from nothing.

        Where the last one is damaged, 'last' is the one before it, and a warning names both.

        Raises:
            InputError: it is not there, damaged, or would run code. 'last' may be missing unless `must_exist`: then
                training starts.
        """
        path = None if wanted is None else newest_sound(self.last) if wanted == "last" else Path(wanted)
        if path is not None and path.exists():
            check_readable(path)
            return path
        if wanted is None or (wanted == "last" and not must_exist):
            self._check_requeued()
            return None
        path = path or self.last
        raise InputError(f"checkpoint {str(path)!r} does not exist; train first, or give another --ckpt_path")

    def _check_requeued(self) -> None:
        """On SLURM, Lightning goes on by itself from what it has saved when a job was requeued."""
        for path in self.path.glob("hpc_ckpt_*.ckpt") if SLURMEnvironment.detect() else ():
            check_readable(path)

    def check(
        self, config: dict[str, Any], resumed: Path | None, overwrite: bool, complete: Complete = lambda there: there
    ) -> None:
        """Make sure that a run of `config` may write here.

        Args:
            config: the whole configuration.
            resumed: the checkpoint that it goes on from.
            overwrite: accept what is here.
            complete: applied to the configuration that is here, which may be older than some settings.

        Raises:
            InputError: the folder holds a run that would be overwritten, or one of another config.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"run folder {str(self.path)!r} is a file; choose another trainer.default_root_dir")
        above = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise InputError(
                f"run folder {str(self.path)!r} would lie in a file; choose another trainer.default_root_dir"
            )
        if kept(self.last) and not overwrite:
            self._refuse_mixture(config, resumed, complete)

    def prepare(self, config: dict[str, Any], start_again: bool) -> None:
        """Make the folder and write `config.yaml`, which `unclip fit --config` reads again.

        With `start_again`, a run that is there is moved to `.previous` beside the folder.

        Raises:
            OSError: it cannot be written.
        """
        if start_again and kept(self.last):
            set_aside(self.path, self.path.parent / PREVIOUS / self.path.name)
        tidy(self.last)
        write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False))

    def check_still_there(self) -> None:
        """Call it when a training is over.

        Raises:
            InputError: the folder was removed or renamed meanwhile, so that what lies there now is half a run.
        """
        if not (self.path / CONFIG).is_file():
            raise InputError(
                f"run folder {str(self.path)!r} was removed or renamed during the training: nothing is exported; if it "
                "was renamed, the renamed folder holds the checkpoints up to then: go on there with --ckpt_path last"
            )

    def _refuse_mixture(self, config: dict[str, Any], resumed: Path | None, complete: Complete) -> None:
        there = self._config_there()
        changed = []
        if there is not None:
            changed = differences(from_the_run(complete(there)), from_the_run(config), ignore=COSMETIC)
        if changed:
            raise InputError(
                f"run folder {str(self.path)!r} holds a run of another config ({', '.join(changed[:3])}"
                f"{', ...' if len(changed) > 3 else ''}); choose another trainer.default_root_dir, "
                "or say --overwrite"
            )
        if resumed is None:
            raise InputError(
                f"run folder {str(self.path)!r} holds a run of this config already; go on with --ckpt_path last, "
                "or start again with --overwrite (what is there moves to .previous)"
            )

    def _config_there(self) -> dict[str, Any] | None:
        try:
            content = today(read_yaml(self.path / CONFIG))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return content if isinstance(content, dict) else None
