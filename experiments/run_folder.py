"""The folder of one training run: what may be written into it, so that nothing is lost by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.checkpoints import LAST
from experiments.folders import PREVIOUS, set_aside, write_text
from experiments.settings import differences
from modules.errors import InputError

CONFIG = "config.yaml"

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


class RunFolder:
    """One run folder: `config.yaml` and `checkpoints/last.ckpt` say what run it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def last(self) -> Path:
        """The run's own last checkpoint."""
        return self.path / LAST

    def checkpoint(self, wanted: str | None, must_exist: bool) -> Path | None:
        """The checkpoint that `--ckpt_path` means; None is a start from nothing.

        Raises:
            InputError: it is not there. 'last' may be missing unless `must_exist`: then training starts.
        """
        if wanted is None:
            return None
        path = self.last if wanted == "last" else Path(wanted)
        if path.is_file():
            return path
        if wanted == "last" and not must_exist:
            return None
        raise InputError(f"checkpoint {str(path)!r} does not exist; train first, or give another --ckpt_path")

    def check(self, config: dict[str, Any], resumed: Path | None, overwrite: bool) -> None:
        """Make sure that a run of `config` may write here.

        Raises:
            InputError: the folder holds a run that would be overwritten, or one of another config.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"run folder {str(self.path)!r} is a file; choose another trainer.default_root_dir")
        if self.last.exists() and not overwrite:
            self._refuse_mixture(config, resumed)

    def prepare(self, config: dict[str, Any], start_again: bool) -> None:
        """Make the folder and write `config.yaml`, which `unclip fit --config` reads again.

        With `start_again`, a run that is there is moved to `.previous` beside the folder.

        Raises:
            OSError: it cannot be written.
        """
        if start_again and self.last.exists():
            set_aside(self.path, self.path.parent / PREVIOUS / self.path.name)
        write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False))

    def _refuse_mixture(self, config: dict[str, Any], resumed: Path | None) -> None:
        there = self._config_there()
        changed = [] if there is None else differences(there, config, ignore=COSMETIC)
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
            content = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return None
        return content if isinstance(content, dict) else None
