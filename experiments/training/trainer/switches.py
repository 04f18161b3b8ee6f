"""Settings of Lightning's Trainer that would do something else than Lightning documents: each is refused by name.

docs/training.md has a table of all of the Trainer's arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from datamodules.base import SplitDataModule
from modules.errors import InputError
from modules.training.precision import check_precision, check_precision_name
from modules.training.stage import Stage

SEEDS = range(2**32)

CALLBACKS = {
    "LearningRateFinder": "cannot set the learning rate, which is model.init_args.optimizer.init_args.lr: try values "
    "there, each in a short run of its own",
    "BatchSizeFinder": "would train with another batch size than config.yaml says: set data.init_args.batch_size; "
    "`unclip plan` says how much memory a batch takes",
    "StochasticWeightAveraging": "would average beside the average that is kept already and exported: set "
    "model.init_args.training.ema_decay",
    "WeightAveraging": "would average beside the average that is kept already and exported: set "
    "model.init_args.training.ema_decay",
    "EMAWeightAveraging": "would average beside the average that is kept already and exported: set "
    "model.init_args.training.ema_decay",
    "BackboneFinetuning": "freezes a part named backbone, and these stages have none: leave it out",
    "ModelPruning": "replaces weights by others that no export holds: leave it out",
}
"""Lightning's callbacks that do not go together with these stages."""

PLUGINS = {
    "BitsandbytesPrecision": "8 or 4 bits",
    "HalfPrecision": "16 bits",
    "TransformerEnginePrecision": "16 bits",
}
"""Lightning's precisions in which weights have fewer bits than float32."""

STRATEGIES = ("FSDPStrategy", "DeepSpeedStrategy")


def seed_in_range(seed: object) -> bool:
    """Whether it is a seed that NumPy and PyTorch both take, or a switch: true draws one, false sets none."""
    return seed is None or (isinstance(seed, int) and seed in SEEDS)  # a bool is 0 or 1; a float would be searched for


def check_settings_of_trainer(command: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings before anything is built.

    Args:
        command: "fit", "validate", "test" or "predict".
        settings: the Trainer's, as the YAML and the command line give them.

    Raises:
        InputError: names the setting and what to do instead.
    """
    for name in class_names(settings.get("callbacks")):
        if name in CALLBACKS:
            raise InputError(f"trainer.callbacks: {name} {CALLBACKS[name]}")
    check_precision_name(settings.get("precision"))
    for name in class_names(settings.get("plugins")):
        if name in PLUGINS:
            raise InputError(
                f"trainer.plugins: {name} holds weights of {PLUGINS[name]}, and small steps would be rounded away; "
                "leave it out, or set trainer.precision to bf16-mixed"
            )
    if command == "fit":
        found = next(_refused(settings), None)
        if found is not None:
            raise InputError(f"trainer.{found}")


def _refused(settings: Mapping[str, Any]) -> Iterator[str]:
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if settings.get(name) == 0:
            yield f"{name} is 0: nothing would be trained; give 1 or more; --trainer.fast_dev_run=true tries a config"
    batches = settings.get("accumulate_grad_batches")
    if batches is not None and batches < 1:
        yield f"accumulate_grad_batches is {batches}: a step has 1 batch or more"
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        every = settings.get(name)
        if isinstance(every, int | float) and every <= 0:
            yield f"{name} is {every}: give a number above 0; limit_val_batches: 0 leaves validation out"
    if type(settings.get("val_check_interval")) is float and settings.get("check_val_every_n_epoch") is None:
        yield (
            f"val_check_interval is {settings['val_check_interval']}, a share of an epoch: set "
            "trainer.check_val_every_n_epoch to 1 beside it, or give a whole number of steps"
        )
    if settings.get("enable_checkpointing") is False:
        yield (
            "enable_checkpointing is false: training always keeps checkpoints/last.ckpt, from which it goes on; "
            "checkpoint.every_minutes says how often"
        )
    if settings.get("barebones"):
        yield "barebones: it measures Lightning itself, without log and checkpoint; leave it out"
    if settings.get("reload_dataloaders_every_n_epochs"):
        yield (
            "reload_dataloaders_every_n_epochs: the data of a run do not change, and their order follows from the "
            "step; leave it out"
        )
    if settings.get("model_registry") is not None:
        yield "model_registry: nothing is uploaded while training; `unclip export` makes a folder that can be"


def class_names(value: Any) -> list[str]:
    """The names, without their modules, of the classes in a setting that holds one or several."""
    several = value if isinstance(value, list | tuple) else [value]
    paths = (getattr(one, "class_path", type(one).__name__) for one in several if one is not None)
    return [str(path).rpartition(".")[2] for path in paths]


def check_trainer(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> None:
    """Refuse settings of a Trainer that is built, before the run folder is touched.

    Args:
        trainer: built from the config.
        model: a LightningModule that is no Stage, and a data module that is none of ours, may have what they want.
        data: its data module.

    Raises:
        InputError: names the setting and what to do instead.
    """
    if isinstance(model, Stage):
        check_precision(trainer.precision_plugin)
        strategy = type(trainer.strategy).__name__
        if strategy in STRATEGIES:
            raise InputError(
                f"trainer.strategy: a stage is not sharded by {strategy}; take ddp, or ModelParallelStrategy "
                "(docs/scaling.md)"
            )
        _check_monitors(trainer)
        _check_decay(trainer, model)
        _check_best(trainer, model)
    if isinstance(data, SplitDataModule) and trainer._accelerator_connector.use_distributed_sampler:
        raise InputError(
            "trainer.use_distributed_sampler is true: the data modules share the data out among devices themselves; "
            "leave it out"
        )


def _check_monitors(trainer: Trainer) -> None:
    """A stage's metrics are train/NAME and val/NAME; others are never logged."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and not monitor.startswith(("train/", "val/")):
            close = difflib.get_close_matches(monitor, ("val/loss", "train/loss"), n=1)
            raise InputError(
                f"trainer.callbacks: {type(callback).__name__} monitors {monitor!r}, which is never logged; metrics "
                f"are named train/NAME and val/NAME; did you mean {(close or ['val/loss'])[0]!r}?"
            )


def _check_best(trainer: Trainer, stage: Stage[Any]) -> None:
    """A best validation wants a validation."""
    wanted, every = stage.training_config.keep_best, trainer.val_check_interval  # type: ignore[attr-defined]
    if wanted is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    batches = trainer.max_steps * trainer.accumulate_grad_batches
    if trainer.limit_val_batches == 0:  # type: ignore[attr-defined]
        never = "trainer.limit_val_batches is 0"
    elif isinstance(every, int) and trainer.check_val_every_n_epoch is None and 0 < batches < every:  # type: ignore[attr-defined]
        never = f"trainer.val_check_interval is {every}, and training has {batches} batches"
    else:
        return
    raise InputError(
        f"model.init_args.training.keep_best is {wanted!r}, and no validation would run ({never}): change that, or "
        "leave keep_best out"
    )


def _check_decay(trainer: Trainer, stage: Stage[Any]) -> None:
    limits = (trainer.max_steps, trainer.max_epochs or -1)
    if stage.training_config.decay_share > 0 and max(limits) < 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise InputError(
            f"model.init_args.training.decay_share is {stage.training_config.decay_share:g}, and nothing says how many "
            "steps there will be: set trainer.max_steps or trainer.max_epochs, or leave decay_share at 0"
        )
