"""The base of DataModules that leave out pairs that cannot be used, and count them."""

from __future__ import annotations

from pathlib import Path

from datamodules.base import SPLITS, SplitDataModule
from datamodules.faults import FaultLog, FaultPolicy


class FaultCounting(SplitDataModule):
    """Keeps a log of every split, in the run folder and on stderr.

    Attributes:
        faults: what happens with what cannot be used.
    """

    faults: FaultPolicy

    def log(self, split: str) -> FaultLog:
        """The pairs of the split that this process has skipped so far."""
        logs: dict[str, FaultLog] = self.__dict__.setdefault("_logs", {})
        if split not in logs:
            logs[split] = FaultLog(self.faults, split)
        return logs[split]

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            for split in SPLITS:
                # Every process lists everything; one tells of it.
                self.log(split).write_into(Path(self.trainer.default_root_dir), self.trainer.global_rank)
        super().setup(stage)

    def teardown(self, stage: str) -> None:
        """Says how many were skipped."""
        for split in SPLITS:
            if self.log(split).found:
                self.log(split).tell()
