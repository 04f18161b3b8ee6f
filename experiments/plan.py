"""`unclip plan`: the memory that a device needs to train a stage, under each strategy, and the smallest that fits.

Nothing of the network's size is allocated: the paper's decoder of 3.7 B parameters is planned on a laptop.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser

from experiments.arguments import CommandParser
from experiments.fitting import constructing
from experiments.lightning_cli import CLI, quiet
from experiments.memory import EXPLAINED, Memory, activations, kept_bytes, memory, shapes_only, with_checkpointing
from experiments.table3 import aligned
from modules.errors import InputError
from modules.stage import Stage

FREE = 0.1
"""Share of a device's memory that is left for its context, for communication, workspaces and fragments."""

DDP_FLAG = "--trainer.strategy=ddp"
FSDP2_FLAGS = (
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy "
    "--trainer.strategy.data_parallel_size={devices} --trainer.strategy.tensor_parallel_size=1 "
    "--trainer.strategy.save_distributed_checkpoint=false"
)


@dataclass(frozen=True)
class Strategy:
    """A way to train: `sharded` is FSDP2, otherwise DDP or one device; `checkpointing` is None where there is none."""

    sharded: bool
    checkpointing: bool | None

    def name(self, devices: int) -> str:
        """'ddp', 'fsdp2 + activation checkpointing', ..."""
        first = "one device" if devices == 1 else "fsdp2" if self.sharded else "ddp"
        return first + (" + activation checkpointing" if self.checkpointing else "")


@dataclass(frozen=True)
class Row:
    """What a strategy needs on a number of devices."""

    devices: int
    strategy: Strategy
    need: Memory

    def fits(self, size: float) -> bool:
        """Whether it fits into devices of `size` bytes."""
        return self.need.total <= (1 - FREE) * size


def main(argv: list[str]) -> int:
    """Run `unclip plan`."""
    parser = CommandParser(
        prog="unclip plan",
        description=(__doc__ or "").splitlines()[0],
        epilog="Further --KEY=VALUE settings are those of `unclip fit`, as in --data.init_args.batch_size=8.",
    )
    parser.add_argument("config", nargs="+", help="the stage's YAML, and others that change it")
    parser.add_argument("--devices", default="1,8,64", help="numbers of devices, parted by commas")
    parser.add_argument("--memory", type=float, default=80.0, help="a device's, in GB (10^9 bytes)")
    options, settings = parser.parse_known_args(argv)
    devices = parse_devices(options.devices)
    if options.memory <= 0:
        raise InputError(f"--memory must be above 0 GB, not {options.memory:g}")
    # Copying a network of fake weights asks for their addresses.
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    config = read([*(f"--config={path}" for path in options.config), *settings])
    print(report(config, devices, options.memory * 1e9))
    return 0


def parse_devices(text: str) -> list[int]:
    """'1,8,64' -> [1, 8, 64].

    Raises:
        InputError: not such a list.
    """
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise InputError(f"--devices takes numbers of devices parted by commas, as in 1,8,64, not {text!r}")
    return sorted({int(word) for word in words})


class Settings(CLI):
    """Reads what `unclip fit` reads, and makes nothing of it."""

    def before_instantiate_classes(self) -> None:
        """No run folder is looked at."""

    def instantiate_classes(self) -> None:
        """Nothing is made."""


def read(words: list[str]) -> dict[str, Any]:
    """The whole configuration of a stage's training, defaults included."""
    quiet()
    return Settings("fit", words).dump()


def builder(model: dict[str, Any]) -> Callable[[], Stage]:
    """Makes the stage of a YAML's `model`."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Stage, "model")
    try:
        parsed = parser.parse_object({"model": model})
    except Exception as error:
        raise InputError(f"model: {' '.join(str(error).split())}") from error

    def make() -> Stage:
        with constructing():
            stage: Stage = parser.instantiate(parsed).model
        return stage

    return make


def plan(config: dict[str, Any], devices: list[int]) -> tuple[Stage, list[Row]]:
    """The stage, of shapes without numbers, and every row, the smallest number of devices and simplest strategy first.

    Raises:
        InputError: not one of this suite's stages.
    """
    model, batch = copy.deepcopy(config["model"]), config["data"]["init_args"]["batch_size"]
    # A layout takes no memory, and fake weights can't be given another.
    model["init_args"].setdefault("training", {})["channels_last"] = False
    bf16 = str(config["trainer"].get("precision")).startswith("bf16")
    with shapes_only():
        stage = builder(model)()
    per_parameter = kept_bytes(stage)
    settings: list[bool | None] = [value for value in (False, True) if with_checkpointing(model, value) is not None]

    @cache
    def active(checkpointing: bool | None, sharded: bool) -> int:
        chosen = model if checkpointing is None else with_checkpointing(model, checkpointing)
        assert chosen is not None
        return activations(builder(chosen), batch, bf16=bf16, sharded=sharded)

    rows = []
    for count in devices:
        for sharded in (False, True) if count > 1 and stage.shardable else (False,):
            for checkpointing in settings or [None]:
                own = active(checkpointing, sharded and bf16)
                need = memory(stage.network, per_parameter, own, devices=count, sharded=sharded, bf16=bf16)
                rows.append(Row(count, Strategy(sharded, checkpointing), need))
    return stage, rows


def report(config: dict[str, Any], devices: list[int], size: float) -> str:
    """What `unclip plan` prints."""
    stage, rows = plan(config, devices)
    batch = config["data"]["init_args"]["batch_size"]
    parameters = sum(p.numel() for p in stage.network.parameters())
    lines = [["devices", "strategy", *(f"{name}" for name in EXPLAINED), "GB", "fits", "accumulate"]]
    for row in rows:
        cells = [f"{value / 1e9:.1f}" for value in (*vars(row.need).values(), row.need.total)]
        fits = "yes" if row.fits(size) else "no"
        lines.append([str(row.devices), row.strategy.name(row.devices), *cells, fits, accumulate(config, row.devices)])
    notes = [f"{name}: {text}." for name, text in EXPLAINED.items()]
    if stage.training_config.compile:
        notes.append("The config compiles the network, which usually keeps less for the backward pass than is counted.")
    return "\n".join(
        [
            f"{type(stage).__name__}: {parameters / 1e9:.2f} B parameters, batch {batch} a device, precision "
            f"{config['trainer'].get('precision') or '32-true'}; GB on each device, of {size / 1e9:g} of which "
            f"{FREE:.0%} are left free",
            "",
            aligned(lines),
            "",
            verdict(rows, size),
            "",
            *notes,
        ]
    )


def accumulate(config: dict[str, Any], devices: int) -> str:
    """accumulate_grad_batches that keeps the config's batch of a step on other devices, or '-' where none does."""
    trainer, batch = config["trainer"], config["data"]["init_args"]["batch_size"]
    there, nodes = str(trainer.get("devices")), trainer.get("num_nodes") or 1
    if not there.isdigit() or int(there) < 1:  # auto, or a list of them
        return "-"
    whole, rest = divmod(int(there) * nodes * (trainer.get("accumulate_grad_batches") or 1), devices)
    return str(whole) if whole and not rest else f"- (batch {batch * int(there) * nodes / devices:g})"


def verdict(rows: list[Row], size: float) -> str:
    """The smallest number of devices with the simplest strategy that fits, and its flags."""
    row = next((row for row in rows if row.fits(size)), None)
    if row is None:
        least = min(rows, key=lambda row: row.need.total)
        return (
            f"None fits; the least is {least.need.total / 1e9:.1f} GB, {least.strategy.name(least.devices)} on "
            f"{least.devices}: more devices, more memory (--memory) or a smaller batch (--data.init_args.batch_size=1)"
        )
    flags = [] if row.devices == 1 else [FSDP2_FLAGS.format(devices=row.devices) if row.strategy.sharded else DDP_FLAG]
    if row.strategy.checkpointing is not None:
        flags.append(f"checkpointing: {str(row.strategy.checkpointing).lower()} in the network")
    return (
        f"The smallest that fits: {row.devices} x {row.strategy.name(row.devices)}, {row.need.total / 1e9:.1f} GB"
        + (f" ({'; '.join(flags)})" if flags else "")
    )
