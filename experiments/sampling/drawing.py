"""Drawing many pictures as a Lightning predict run: in batches, over the Trainer's devices, each rank its own shard.

Pictures are cut into batches by their number, before they are given to ranks: so every picture is drawn in the same
company, and comes out the same to the bit, on one process or on several, in one go or in two.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from eval.samples.folder import SampleFolder
from eval.samples.shards import Shards
from experiments.console.progress import Progress
from experiments.console.quiet import quiet
from experiments.console.signals import PREEMPTION, exit_code
from experiments.sampling.captions import Request
from modules.errors import InputError
from modules.pipeline import UnCLIP


@dataclass(frozen=True)
class Job:
    """What is drawn: picture k is sample k mod n of caption k div n.

    Attributes:
        requests: the captions.
        n: pictures of each.
        condition: see `UnCLIP.embedding`.
        seed: of the run.
        upsample: whether the upsamplers enlarge them.
        shared: what all manifest lines say of how the pictures were made.
        source: the folder of the true images, for image_embedding.
        size: how far the upsamplers enlarge them; by default to the largest that they reach.
    """

    requests: list[Request]
    n: int
    condition: str
    seed: int
    upsample: bool
    shared: dict[str, Any]
    source: SampleFolder | None = None
    size: int | None = None

    def __len__(self) -> int:
        return len(self.requests) * self.n

    @property
    def label(self) -> str:
        """What the bar says."""
        return f"sampling {self.condition}"

    def batches(self, size: int, finished: Container[int]) -> list[list[int]]:
        """The numbers of the pictures that are to be drawn together: of `size` each, without those that are there."""
        parts = (range(start, min(start + size, len(self))) for start in range(0, len(self), size))
        left = ([k for k in part if k not in finished] for part in parts)
        return [part for part in left if part]

    def record(self, k: int) -> dict[str, Any]:
        """The manifest line of picture k, without its file."""
        request = self.requests[k // self.n]
        place = {"caption": request.caption, "caption_index": request.index, "sample_index": k % self.n}
        true = {} if self.source is None else {"true_image": self.source.records[request.image(k % self.n)]["file"]}
        return {**place, "seed": self.seed, **self.shared, **true, **request.known}

    def draw(self, system: UnCLIP, numbers: list[int]) -> Tensor:
        """Pictures as uint8 (B, 3, H, W), on the CPU."""
        requests = [self.requests[k // self.n] for k in numbers]
        drawn = system.generate(
            [request.caption for request in requests],
            self.condition,
            self.seed,
            [(request.index, k % self.n) for request, k in zip(requests, numbers, strict=True)],
            self.true_images(numbers),
            self.upsample,
            self.size,
        )
        return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    def true_images(self, numbers: list[int]) -> Tensor | None:
        """(B, 3, H, W) in [-1, 1]: for sample k of a caption, that caption's real image k."""
        if self.source is None:
            return None
        places = [self.requests[k // self.n].image(k % self.n) for k in numbers]
        return torch.cat([self.source.images(place, place + 1) for place in places]).float() / 127.5 - 1


class Drawing(LightningModule):
    """Predicts a job's pictures; a batch is the numbers of its pictures.

    Args:
        system: the trained stages.
        job: the pictures.
        shards: where they go.
        batch_size: pictures at once.
    """

    def __init__(self, system: UnCLIP, job: Job, shards: Shards, batch_size: int) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # A few last pictures may leave ranks without.
        self.system, self.job, self.shards, self.batch_size = system, job, shards, batch_size

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the batches that are left."""
        batches = self.job.batches(self.batch_size, self.shards.lines())
        own: Any = batches[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(own, batch_size=None)

    def on_predict_start(self) -> None:
        if self.device != self.system.device:
            self.system = UnCLIP(self.system.run, self.device, self.system.overrides)

    def predict_step(self, batch: list[int], batch_idx: int) -> Tensor:
        return self.job.draw(self.system, batch)


class WriteShards(Callback):
    """Writes each batch as soon as it is drawn, and shows how far all ranks are.

    Args:
        job: what is drawn.
        shards: where it goes.
        finished: pictures that were there before.
    """

    def __init__(self, job: Job, shards: Shards, finished: int) -> None:
        self.job, self.shards, self.finished = job, shards, finished
        self._bar: Progress[None] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._bar = Progress(self.job.label, len(self.job), done=self.finished)
            self._bar.__enter__()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.shards.write(trainer.global_rank, batch, outputs, [self.job.record(k) for k in batch])
        if self._bar:  # The others are about as far as this one.
            self._bar.update(min(self._bar.done + len(batch) * trainer.world_size, len(self.job)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("pictures")
        if self._bar:
            self._bar.update(len(self.job))
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar:
            self._bar.__exit__(None, None, None)
            self._bar = None


class EndOnSignal(Callback):
    """Ends at once on a scheduler's signals, which Lightning only notes in prediction; what is finished is on disk."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def end(number: int, frame: FrameType | None) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.Signals(number))
            raise SystemExit(exit_code(number))

        if threading.current_thread() is threading.main_thread():
            for number in PREEMPTION:
                signal.signal(number, end)  # Lightning puts back what it found, when it is done.


def predict(drawing: Drawing, finished: int, device: torch.device, devices: int, strategy: str) -> None:
    """Draws what is left of a job, on this process or on several that the strategy starts.

    Args:
        drawing: the job.
        finished: pictures that are there already.
        device: its type and, if it has one and `devices` is 1, its number.
        devices: how many processes, each with a device.
        strategy: of the Trainer.

    Raises:
        InputError: there are no such devices, or there is no such strategy.
        KeyboardInterrupt: Ctrl-C.
    """
    quiet()
    wanted = [device.index] if device.index is not None and devices == 1 else devices
    with _interrupts():
        try:
            trainer = Trainer(
                accelerator=device.type,
                devices=wanted,
                strategy=strategy,
                callbacks=[WriteShards(drawing.job, drawing.shards, finished), EndOnSignal()],
                use_distributed_sampler=False,
                inference_mode=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (MisconfigurationException, ValueError) as error:
            line = " ".join(str(error).split())
            raise InputError(f"--devices {devices} --strategy {strategy}: {line}") from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*across ranks is zero.*")
            trainer.predict(drawing, return_predictions=False)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Lightning turns Ctrl-C into exit code 1."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
