"""The callbacks of every training run: they say what is trained, and show how far it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.swa_utils import AveragedModel

from experiments.console.progress import Progress
from experiments.training.kept_bytes import kept_bytes
from experiments.training.trainer.log_file import note, tell
from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.training.sharding import local


class Announce(Callback):
    """Prints the stage, its batch, its steps and its folder before training; then the samples and memory of a step."""

    def __init__(self) -> None:
        self._saved: SavedActivations | None = None
        self._work = self._uncounted = ""
        self._said = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            tell(trainer, announcement(trainer, pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        ours = isinstance(batch, (EmbeddingBatch, ImageTextBatch))
        if self._said or not trainer.is_global_zero or not ours:
            return
        self._said, self._work = True, workload(trainer, pl_module, batch)
        self._uncounted = uncounted(pl_module)
        if not self._uncounted:
            self._saved = SavedActivations(pl_module)
            self._saved.__enter__()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if self._work:
            activations = self._stop_counting()
            left_out = f"; activations not counted: {self._uncounted}" if self._uncounted else ""
            tell(trainer, f"{self._work}; {memory(pl_module, activations)}{left_out}")
            self._work = ""

    def _stop_counting(self) -> int | None:
        if self._saved is None:
            return None
        self._saved.__exit__()
        saved, self._saved = self._saved, None
        return saved.bytes

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_counting()


def uncounted(module: LightningModule) -> str:
    """Why a step's activations can't be counted as it runs, and what counts them; '' where they can."""
    plan = "`unclip plan` counts"
    if getattr(module, "sharded", False):
        return f"a sharded network's are mixed with gathered weights ({plan} both)"
    if getattr(getattr(module, "training_config", None), "compile", False):
        return f"what a compiled network keeps is its compiler's choice ({plan} those of the network as it is)"
    return ""


class SavedActivations:
    """Counts the bytes that the forward pass keeps for the backward pass, each storage once, weights left out.

    `bytes` is the most at any time: with SAM, a step's first pass is over and let go of when the second begins.
    """

    def __init__(self, module: LightningModule) -> None:
        self.bytes = 0
        self._weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._held: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, self._let_go)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._held[storage.data_ptr()] = storage.nbytes()
            self.bytes = max(self.bytes, sum(self._held.values()))
        return tensor

    def _let_go(self, tensor: torch.Tensor) -> torch.Tensor:
        self._held.pop(tensor.untyped_storage().data_ptr(), None)
        return tensor

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)


def workload(trainer: Trainer, module: LightningModule, batch: Any) -> str:
    """'clip: 64 x 2 devices x 4 accumulated = 512 samples a step, 2.1 M pixels a step'."""
    size = len(batch.index)
    factors = [str(size)]
    if trainer.world_size > 1:
        factors.append(f"{trainer.world_size} devices")
    if trainer.accumulate_grad_batches > 1:
        factors.append(f"{trainer.accumulate_grad_batches} accumulated")
    effective = size * trainer.world_size * trainer.accumulate_grad_batches
    product = f"{' x '.join(factors)} = {effective:,}" if len(factors) > 1 else f"{effective:,}"
    images = getattr(batch, "images", None)
    if images is not None:
        crop = getattr(getattr(module, "model", None), "crop", 1.0)
        amount, unit = round(images.shape[-2] * images.shape[-1] * crop**2), "pixels"
    else:
        codes = getattr(getattr(module, "codec", None), "kept", 0)
        amount, unit = batch.tokens.shape[1] + codes, "caption tokens" + (" and codes" if codes else "")
    return f"{label(trainer)}: {product} samples a step, {millions(effective * amount)} {unit} a step"


def memory(module: LightningModule, activations: int | None) -> str:
    """'memory about 1.2 GB beside program and data: weights ...': what a step's tensors take on each device.

    Args:
        module: what is trained; its `optimizer`, if it has one, makes the optimiser from parameters.
        activations: their bytes; None where they are not counted.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    every = sum(local(p).numel() * p.element_size() for p in module.parameters())
    gradients = sum(local(p).numel() * p.element_size() for p in trained)
    optimiser = round(kept_bytes(module) * sum(local(p).numel() for p in trained))
    parts = {"weights and their average": every, "gradients": gradients, "optimiser": optimiser}
    if activations is not None:
        parts["activations"] = activations
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    return f"memory about {gigabytes(sum(parts.values()))} beside program and data: {listed}"


def gigabytes(size: int) -> str:
    """'3.1 GB', '12.0 MB' or '0.3 MB'."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def announcement(trainer: Trainer, module: LightningModule) -> str:
    """'clip: CLIPTrainer, 1.2 M parameters trained and 0.5 M frozen, batch 64, steps 0 to 2,000, on cpu, in runs/x'."""
    averages = {id(p) for part in module.modules() if isinstance(part, AveragedModel) for p in part.parameters()}
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad and id(p) not in averages)
    parts = [
        type(module).__name__,
        f"{millions(trained)} parameters trained" + (f" and {millions(frozen)} frozen" if frozen else ""),
        f"batch {batch_size(trainer) or '?'}" + (f" x {trainer.world_size} devices" if trainer.world_size > 1 else ""),
        f"steps {trainer.global_step:,} to {last_step(trainer) or 'no end'}",
        f"on {module.device}",
        f"in {trainer.default_root_dir}",
    ]
    return f"{label(trainer)}: {', '.join(parts)}"


def millions(count: int) -> str:
    """'12.3 M', '4.5 k' or '17'."""
    return next(
        (f"{count / unit:.1f} {name}" for unit, name in ((10**6, "M"), (10**3, "k")) if count >= unit), str(count)
    )


def batch_size(trainer: Trainer) -> int | None:
    """Pairs in a batch of one device, where the loader tells."""
    loader = trainer.train_dataloader
    sizes = (getattr(part, "batch_size", None) for part in (loader, getattr(loader, "batch_sampler", None)))
    return next((size for size in sizes if size), None)


def last_step(trainer: Trainer) -> int | None:
    """The optimiser step at which max_steps or max_epochs ends training, the first of them; None when nothing says."""
    try:
        steps = trainer.estimated_stepping_batches
    except MisconfigurationException:  # The batches of a step change on the way (GradientAccumulationScheduler).
        steps = trainer.max_steps if trainer.max_steps > 0 else float("inf")
    return int(steps) if steps != float("inf") else None


def label(trainer: Trainer) -> str:
    """The stage's name: that of its folder."""
    return Path(trainer.default_root_dir).name


def losses(trainer: Trainer, *kinds: str) -> str:
    """'train/loss 0.213, val/loss 0.241, val/retrieval 0.61': what was logged last; the learning rate is left out.

    Args:
        kinds: "train", "val"; both if there are none.
    """
    wanted = kinds or ("train", "val")
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.partition("/")[0] in wanted}
    order = sorted(found, key=lambda name: (name.partition("/")[0], name.partition("/")[2] != "loss", name))
    return ", ".join(f"{name} {found[name]:.4g}" for name in order if name != "train/lr")


class FitProgress(Callback):
    """Shows optimiser steps of training and the last logged loss, and a line after each validation."""

    def __init__(self) -> None:
        self._progress: Progress[None] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._progress = Progress(
                label(trainer), last_step(trainer), done=trainer.global_step, keep=partial(note, trainer)
            )
            self._progress.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress:
            self._progress.update(trainer.global_step, lambda: losses(trainer, "train"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        said = losses(trainer)
        if self._progress and said:
            last = last_step(trainer)
            of = "" if last is None else f" of {last:,}"
            tell(trainer, f"{label(trainer)}: step {trainer.global_step:,}{of}: {said}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._progress:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")
