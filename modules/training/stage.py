"""The base of all trained stages: seeded noise, the optimiser with its warm-up, EMA, logging, export."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

import lightning
import torch
import yaml
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT
from torchmetrics import Metric

from modules.clip import origin as clip_origin
from modules.errors import InputError
from modules.models.base import B, Batch, outputs_of
from modules.models.data_sizes import MODEL, DataSizes, check_share
from modules.models.exports import write_weights
from modules.models.licences import ATTRIBUTION, attribution_behind, joined, licence_behind, licence_of_both
from modules.models.licences import KEY as LICENCE
from modules.networks.group_norm import to_channels_last
from modules.seeds import image_generators
from modules.training.average import ExponentialAverage
from modules.training.best_average import BestAverage, Mode
from modules.training.finite import FiniteGuard, Seen
from modules.training.image_log import log_images, shows_images
from modules.training.measures import Measures
from modules.training.muon import NamedParameters
from modules.training.precision import check_precision
from modules.training.sharding import gathered, local, shard_stage
from modules.untrusted.reading import read_yaml
from modules.untrusted.writing import clear_way


@dataclass(frozen=True)
class TrainingConfig:
    """How a stage is trained, apart from its optimiser.

    Attributes:
        ema_decay: decay of the exponential moving average of the trained network (Table 3 has 0.9999 at 600 k steps and
            more; a run of a few thousand steps needs a faster average).
        warmup_steps: the learning rate rises linearly over these steps.
        decay_share: over this last share of all steps the learning rate falls along a half cosine to 2 %; with 0 it
            stays (the paper). All steps are max_steps, or those of max_epochs if they are fewer.
        channels_last: memory layout of a convolutional network; faster on tensor cores. On a CPU it is faster for
            ResNets, but not for U-Nets, whose Winograd's convolutions (`modules.networks.convolutions`) need
            contiguous tensors.
        fast_norms: with channels_last, group norms by sums that are faster on a CPU and round otherwise
            (`modules.networks.group_norm`).
        compile: torch.compile the network (for GPUs).
        seed: seed of the training noise.
        samples_judged: how many samples validation draws for its further measures (PSNR, cosines), at most a batch; 0
            is no measures; null is the stage's own number.
        samples_shown: how many samples validation draws for the loggers' pictures, at most a batch; 0 is none; null is
            the stage's own number.
        keep_best: a measure of validation, such as val/loss. The export then holds the averaged weights from the
            validation with its best value; null is those after the last step.
        keep_best_mode: whether the least value is the best ("min"), or the greatest ("max").
    """

    ema_decay: float = 0.9999
    warmup_steps: int = 100
    decay_share: float = 0.0
    channels_last: bool = False
    fast_norms: bool = False
    compile: bool = False
    seed: int = 0
    samples_judged: int | None = None
    samples_shown: int | None = None
    keep_best: str | None = None
    keep_best_mode: Mode = "min"


def adamw(params: ParamsT) -> Optimizer:
    """The default optimiser: AdamW, fused."""
    return torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True)


class Stage(lightning.LightningModule, Generic[B]):
    """Base of the LightningModules: a trained network, its average, and what both need.

    `ModelStage` is the base for those that train a `modules.models` model. The training noise of optimiser step k comes
    from a generator seeded by (seed, k, rank), so that a resumed run draws what an uninterrupted one does.

    Args:
        network: the trained network.
        optimizer: makes the optimiser from the network's parameters.
        training: EMA, warm-up, seed and other settings of training.
    """

    def __init__(self, network: nn.Module, optimizer: OptimizerCallable, training: TrainingConfig) -> None:
        super().__init__()
        if training.channels_last:
            network = to_channels_last(network, training.fast_norms)
        self.network: nn.Module = network
        self.optimizer, self.training_config = optimizer, training
        self.average = ExponentialAverage(network, training.ema_decay)
        self.average.requires_grad_(False)
        self.sharded = False
        self.measures = Measures()
        self._compiled: nn.Module | None = None
        self._index = torch.zeros(0, dtype=torch.int64)
        self._guard: FiniteGuard | None = None
        self.initial: tuple[str, ...] = ()  # The tensors that `init_from` gave; what is fitted to the data is kept.
        self._resumed = False
        self.best = None if training.keep_best is None else BestAverage(training.keep_best, training.keep_best_mode)

    teacher_folder: str | None = None
    """The trained stage from which this one is distilled (`modules.distillation`); None for others."""

    def check_start(self) -> None:
        """Refuse a teacher that does not fit, before anything is written; a stage without one has none to refuse.

        Raises:
            InputError: there is no such stage, or it is another network.
        """

    judged: ClassVar[int | None] = None
    """How many samples of a validation batch `judge` draws, if the YAML says nothing; None for all."""

    shown: ClassVar[int] = 16
    """How many samples of a validation batch `show_samples` draws, if the YAML says nothing."""

    shardable = True
    """Whether the network may be sharded (FSDP2)."""

    def configure_model(self) -> None:
        """Shard the network and its average where the Trainer's strategy is ModelParallelStrategy (docs/scaling.md).

        Raises:
            InputError: a precision in which the average of the weights would stand still, or `keep_best` of a sharded
                network.
        """
        check_precision(self.trainer.precision_plugin)
        if self.device_mesh is not None and self.best is not None:
            raise InputError(
                "model.init_args.training.keep_best: a sharded network's best average is not kept; leave it out"
            )
        if self.device_mesh is not None and not self.sharded:
            shard_stage(self)
            self.sharded = True

    @property
    def begins(self) -> bool:
        """Whether training begins and does not go on from a checkpoint.

        In `on_fit_start` this cannot be told from `global_step`, which Lightning restores later than the weights.
        """
        return self.global_step == 0 and not self._resumed

    @property
    def trained(self) -> nn.Module:
        """The network to train with, compiled where the config says so; the same parameters as `network`."""
        if not self.training_config.compile:
            return self.network
        if self._compiled is None:
            # Kept out of the module tree, or the checkpoint would hold everything twice.
            object.__setattr__(self, "_compiled", torch.compile(self.network))
        assert self._compiled is not None
        return self._compiled

    @property
    def averaged(self) -> nn.Module:
        """The EMA network: what validates, samples and is exported. After training with `keep_best`, its best state."""
        return self.average.module

    def training_loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; all randomness comes from the generator."""
        raise NotImplementedError

    def validation_loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """Scalar loss of the averaged network."""
        raise NotImplementedError

    @property
    def judged_count(self) -> int | None:
        """How many samples of a validation batch `judge` draws; None for all."""
        wanted = self.training_config.samples_judged
        return self.judged if wanted is None else wanted

    @property
    def shown_count(self) -> int:
        """How many samples of a validation batch `show_samples` draws."""
        wanted = self.training_config.samples_shown
        return self.shown if wanted is None else wanted

    def judge(self, batch: B) -> Mapping[str, Tensor | Metric]:
        """Further numbers of the first validation batch: (N,) values, one for each sample, or an updated metric."""
        return {}

    def show_samples(self, batch: B) -> Tensor | None:
        """(N, 3, H, W) images in [-1, 1] for the loggers, from a validation batch; None for nothing to show."""
        return None

    def example_batch(self, count: int) -> B:
        """A batch of `count` samples of the shapes that training sees, all values 0.

        Raises:
            InputError: a stage that gives none, whose memory is therefore not planned.
        """
        raise InputError(f"model: {type(self).__name__} gives no example of a batch (Stage.example_batch)")

    def example_loss(self, batch: B) -> Tensor:
        """A scalar of the network's output for `example_batch`, evaluated as a training step does."""
        raise NotImplementedError

    @property
    def takes_pictures(self) -> bool:
        """Whether a DataModule of embeddings alone is refused."""
        return False

    def check_settings(self, sizes: DataSizes) -> None:
        """Refuse settings with which a new training would be of no use; see `Model.check_settings`.

        Raises:
            InputError: there is one.
        """
        config = self.training_config
        check_share("training.decay_share", config.decay_share)
        for name in ("samples_judged", "samples_shown"):
            if (getattr(config, name) or 0) < 0:
                raise InputError(f"{MODEL}.training.{name} is {getattr(config, name)}: give 0 or more, or null")
        if config.keep_best is not None and not config.keep_best.startswith("val/"):
            raise InputError(
                f"{MODEL}.training.keep_best is {config.keep_best!r}: give a measure of validation, as val/loss"
            )

    def check_data(self, sizes: DataSizes) -> None:
        """Refuse data of other sizes than the network takes; see `Model.check_data`.

        Raises:
            InputError: they differ.
        """

    def generator(self, *key: int) -> torch.Generator:
        """A CPU generator seeded by (seed, *key, rank)."""
        text = json.dumps([self.training_config.seed, *key, self.global_rank])
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)

    def training_step(self, batch: B, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch, self.generator(0, self._micro_step()))
        self._index = batch.index
        if self.waits_for_device:
            self.guard.see(Seen("the loss", self.global_step, loss.detach().clone(), batch.index))
        elif not math.isfinite(loss.item()):
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step} (samples {_index(batch)}): "
                f"{self._offender(batch)}; training stops here; "
                "go on from the last checkpoint with a lower learning rate, or look at these samples"
            )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # A gradient can be infinite although the loss is finite; the step would spoil weights and checkpoint.
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return  # It skips such steps itself.
        gradients = {name: local(p.grad) for name, p in self.network.named_parameters() if p.grad is not None}
        if not gradients:
            return
        total = self._total(torch._foreach_norm(list(gradients.values())))
        if self.waits_for_device:
            self.guard.see(Seen("the sum of the gradients' norms", self.global_step, total, self._index))
        elif not math.isfinite(total.item()):
            bad = (name for name, gradient in gradients.items() if not gradient.isfinite().all())
            name = next(bad, "a weight on another device")
            raise InputError(
                f"the gradient of {name} is not finite at step {self.global_step} (samples {self._index.tolist()}): "
                "training "
                "stops here; go on from the last checkpoint with a lower learning rate, or look at these samples"
            )

    def _total(self, norms: Sequence[Tensor]) -> Tensor:
        """() their sum, over all devices if each has a share: then all of them stop, or none does."""
        total = torch.stack(list(norms)).sum()
        found: Tensor = self.trainer.strategy.reduce(total, reduce_op="sum") if self.sharded else total  # type: ignore[assignment]
        return found

    @property
    def waits_for_device(self) -> bool:
        """Whether reading a number makes this process wait for an accelerator, which then stands idle."""
        return self.device.type != "cpu"

    @property
    def guard(self) -> FiniteGuard:
        """Reads losses and gradients of `log_every_n_steps` steps together, where reading means waiting."""
        if self._guard is None:
            steps = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
            self._guard = FiniteGuard(2 * max(1, steps))  # A loss and a gradient a step.
        return self._guard

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # Lightning refuses to clip for fused optimisers, since they may unscale gradients. bf16 scales nothing.
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _offender(self, batch: B) -> str:
        """Names the first tensor that is not finite in a training step whose loss is not finite."""
        for name, tensor in _tensors(batch):
            if not tensor.isfinite().all():
                return f"{name} of the batch is not finite"
        for name, parameter in self.network.named_parameters():
            if not local(parameter).isfinite().all():
                return f"the weight {name} is not finite"
        if self.sharded:  # A further evaluation would wait for the other devices, whose losses may be good.
            return "the loss itself is the first"
        with torch.no_grad():
            terms = self.loss_terms(batch, self.generator(0, self._micro_step()))
        for name, term in terms.items():
            bad = ~term.reshape(len(term), -1).isfinite().all(dim=1)
            if bad.any():
                rows = torch.tensor(_index(batch))[bad.cpu()].tolist() if len(bad) == len(_index(batch)) else "?"
                return f"{name} is not finite for samples {rows}"
        return "the loss itself is the first"

    def loss_terms(self, batch: B, generator: torch.Generator) -> dict[str, Tensor]:
        """(B, ...) tensors from which the loss is computed, in that order. The first that is not finite is then named.

        By default these are the outputs of the network.
        """
        return outputs_of(self.network, lambda: self.training_loss(batch, generator))

    def _micro_step(self) -> int:
        """How many batches the whole run has trained on before this one."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], object] | None = None,
    ) -> None:
        # Not in on_train_batch_end: callbacks run before it, so a checkpoint would lack this step's average.
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.after_step()
        self.average.update_parameters(self.network)

    def after_step(self) -> None:
        """Changes the weights after each step of the optimiser, if a stage needs that."""

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: B, batch_idx: int) -> None:
        if self.global_step % 50 == 0:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    @property
    def measured(self) -> str:
        """The part of the data that measures are named after: "val" or, in `unclip test`, "test"."""
        return "test" if self.trainer.testing else "val"

    def validation_step(self, batch: B, batch_idx: int) -> None:
        loss = self.validation_loss(batch, self.generator(1, batch_idx))
        self.log(f"{self.measured}/loss", loss, batch_size=len(_index(batch)), sync_dist=True)
        if batch_idx > 0:  # Sampling is slow; one batch shows where it stands.
            return
        if self.training_config.samples_judged != 0:
            for name, found in self.judge(batch).items():
                self.log_measure(name, found)
        if self.training_config.samples_shown != 0:
            self._show(batch)

    def on_validation_end(self) -> None:
        if self.best is not None and self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.best.see(self.trainer.callback_metrics, self.global_step, self.averaged)

    def on_train_start(self) -> None:
        if self.best is not None:
            self.best.take_out_of(self.averaged)
            if self._resumed and self.best.seen != self.global_step and self._validation_follows:
                validate_now(self.trainer)  # The checkpoint was written after the step and before its validation.

    @property
    def _validation_follows(self) -> bool:
        """Whether the last batch is one after which there is a validation."""
        every = self.trainer.val_check_batch
        if self.trainer.check_val_every_n_epoch is not None or every is None or not math.isfinite(every):
            return False
        return self._micro_step() % every == 0

    def on_train_end(self) -> None:
        if self.best is not None:
            self.best.put_into(self.averaged)

    def log_measure(self, name: str, found: Tensor | Metric) -> None:
        """Log a number of validation: the mean over samples and ranks, whatever the size of their batches.

        Args:
            name: of the number.
            found: (N,) one number a sample, or a metric of `measures` that has been updated. Every rank calls this for
                the same names.
        """
        metric = found if isinstance(found, Metric) else self.measures.mean(name, found)
        self.log(f"{self.measured}/{name}", metric, on_step=False, on_epoch=True, metric_attribute=f"measures.{name}")

    def _show(self, batch: B) -> None:
        """Samples for a batch, in the loggers that can show pictures; a `fast_dev_run` draws them all the same."""
        trainer = self.trainer
        wanted = bool(trainer.fast_dev_run) or shows_images(trainer.loggers)  # type: ignore[attr-defined]
        if trainer.sanity_checking or not wanted:
            return
        if self.global_rank == 0 or self.sharded:  # Shares of weights are gathered from all.
            images = self.show_samples(batch)
            if images is not None and self.global_rank == 0:
                log_images(trainer.loggers, f"{self.measured}/samples", images, self.global_step)

    def test_step(self, batch: B, batch_idx: int) -> None:
        """The measures of validation, with the same noise, on what the Trainer gives."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: B, batch_idx: int) -> dict[str, Tensor]:
        """`predictions` of the averaged network for a batch, and the `index` (B,) of its samples.

        A sample's noise depends on `training.seed` and its index only, not on its batch.
        """
        places = [(k, 0) for k in _index(batch)]
        found = self.predictions(batch, image_generators(self.training_config.seed, places, "predict"))
        return {"index": batch.index, **found}

    def predictions(self, batch: B, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """(B, ...) tensors by name, from the averaged network; pictures are uint8.

        Args:
            batch: as in validation.
            generators: one for each sample.
        """
        raise NotImplementedError

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # With their names, by which Muon tells hidden matrices from the rest.
        optimizer = self.optimizer(NamedParameters(x for x in self.network.named_parameters() if x[1].requires_grad))
        self.prepare_optimizer(optimizer)
        schedule = LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def prepare_optimizer(self, optimizer: Optimizer) -> None:
        """Prepares a fresh optimiser before the learning rate's schedule takes its groups."""

    def _learning_rate_factor(self, step: int) -> float:
        config = self.training_config
        factor = min(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.decay_share == 0 or step == 0:  # The first one is asked for before the data are set up.
            return factor
        total = self.trainer.estimated_stepping_batches
        first = (1 - config.decay_share) * total
        if step > first:
            progress = min(1.0, (step - first) / (total - first))
            factor *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        return factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._guard is not None:
            self._guard.check()
        if self.best is not None:
            self.best.save(checkpoint)
        checkpoint[clip_origin.KEY] = clip_origin.origin_of(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = True
        if self.best is not None:
            goes_on = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
            self.best.load(checkpoint, goes_on)
        here = clip_origin.origin_of(self._trainer)
        clip_origin.check_origin(checkpoint.get(clip_origin.KEY), here, "this checkpoint", "the data hold those of")

    def take_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors beside the network from an export, for a training that starts from it (`init_from`)."""

    def exported_state(self) -> dict[str, Tensor]:
        """The averaged network's tensors, for `export`. If sharded, every rank must call this; the first gets them."""
        state = dict(self.averaged.state_dict())
        return gathered(state, keep=self.global_rank == 0) if self.sharded else state

    @property
    def clip_fingerprint(self) -> str | None:
        """Fingerprint of the CLIP that the stage is trained on; None if it is not known."""
        return clip_origin.origin_of(self.trainer)

    def exported_about(self) -> dict[str, object]:
        """Further entries for the export's config.yaml, beside the model's class and arguments."""
        return {}

    @property
    def exported_step(self) -> int:
        """The optimiser step after which the averaged weights were as they are exported."""
        return self.best.step if self.best is not None and self.best.placed else self.global_step

    def on_fit_end(self) -> None:
        if self._guard is not None:
            self._guard.check()
        if self.best is not None:
            self.best.put_into(self.averaged)  # Training that goes on from its last step does not end a second time.
        root = Path(self.trainer.default_root_dir)
        # This is called when training has ended as the config said: by steps, epochs, time or a callback. An
        # interrupted run is not exported: it will be when it has been resumed and has reached its end.
        trained = self.global_step > 0 and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if trained and (self.global_rank == 0 or self.sharded) and (root / "config.yaml").exists():
            self.export(root)

    def export(self, root: Path) -> None:
        """Write root/export/: the averaged weights as safetensors, and the model's part of root/config.yaml.

        If the stage is sharded, every rank must call this; the first writes.
        """
        state = self.exported_state()
        if self.global_rank != 0:
            return
        whole = read_yaml(root / "config.yaml")
        config, folder = whole["model"], root / "export"
        folder.mkdir(exist_ok=True)
        write_weights(state, folder / "model.safetensors")
        about = self.exported_about() | {"step": self.exported_step, clip_origin.KEY: self.clip_fingerprint}
        if self.best is not None and self.best.placed:
            about["chosen"] = {"by": f"{self.best.mode} {self.best.measure}", "of_steps": self.global_step}
        about |= {"init_from": whole["init_from"]} if whole.get("init_from") else {}
        sources = [str(source) for source in (whole.get("init_from"), self.teacher_folder) if source]
        data = getattr(getattr(self.trainer, "datamodule", None), "attribution", None)
        whom = joined([data, *map(attribution_behind, sources)])
        licence = licence_of_both(list(map(licence_behind, sources)))
        if licence is not None and not (whom and licence.free):  # What the data ask is more than a free licence does.
            about[LICENCE] = vars(licence)
        if whom:  # A model card names them; the data may not be there any more when it is written.
            about[ATTRIBUTION] = whom
        clear_way(folder / ".config.tmp")
        (folder / ".config.tmp").write_text(yaml.safe_dump(config | about, sort_keys=False))
        (folder / ".config.tmp").replace(folder / "config.yaml")


def validate_now(trainer: lightning.Trainer) -> None:
    """A validation as between two training steps."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def _tensors(batch: tuple[object, ...], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a batch, by the names of their fields."""
    for name, value in zip(getattr(batch, "_fields", ()), batch, strict=False):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield prefix + name, value
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            yield from _tensors(value, f"{prefix}{name}.")


def _index(batch: Batch) -> list[int]:
    found: list[int] = batch.index.tolist()
    return found
