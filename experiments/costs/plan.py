"""`unclip plan`: the memory that a device needs to train a stage, under each strategy, and the smallest that fits.

Nothing of the network's size is allocated: the paper's decoder of 3.5 B parameters is planned on a laptop.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser

from experiments.console.import_wall import trust
from experiments.console.show import aligned
from experiments.costs import sampling
from experiments.costs.memory import EXPLAINED, Memory, activations, memory, shapes_only, with_checkpointing
from experiments.training.callbacks import millions
from experiments.training.config import read
from experiments.training.fitting import constructing
from experiments.training.kept_bytes import kept_bytes
from modules.errors import InputError
from modules.training.stage import Stage

FREE = 0.1
"""Share of a device's memory that is left for its context, for communication, workspaces and fragments."""

DDP_FLAG = "--trainer.strategy=ddp"
FSDP2_FLAGS = (
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy "
    "--trainer.strategy.data_parallel_size={devices} --trainer.strategy.tensor_parallel_size=1 "
    "--trainer.strategy.save_distributed_checkpoint=false"
)


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""What is counted: float32 weights, and in the mixed ones 16 bits for what autocast computes in them."""

ALIASES = {"None": "32-true", "32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""As Lightning reads them."""

UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


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


def run(options: argparse.Namespace) -> int:
    """Run `unclip plan`; returns the exit code."""
    if not options.config and options.sample is None:
        raise InputError("plan: name the YAML of the stage to train, or with --sample the run to draw with")
    if options.sample is not None and (options.config or options.settings):
        raise InputError("plan: --sample is of a run, which has its settings: leave out YAMLs and their settings")
    devices = parse_devices(options.devices)
    if not 0 < options.memory < math.inf:
        raise InputError(f"--memory must be a number of GB above 0, not {options.memory:g}")
    if options.sample is not None:
        print(sampling.report(options.sample, options.condition, options.batch_size, options.memory * 1e9))
        return 0
    # Copying a network of fake weights asks for their addresses.
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    config = read([*(f"--config={path}" for path in options.config), *options.settings])
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


def builder(model: dict[str, Any]) -> Callable[[], Stage]:
    """Makes the stage of a YAML's `model`.

    Raises:
        InputError: it is none, or its settings are not understood.
    """
    module, _, name = model["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise InputError(
            f"model: {name} has no network that is planned, only the suite's generative stages and CLIP have; "
            "`unclip fit` says as it starts what memory a step of it takes"
        )
    trust(model)  # The person's own YAML.
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
        InputError: not one of this suite's stages, or a batch or a precision that is not counted.
    """
    model, batch, chosen_precision = copy.deepcopy(config["model"]), batch_size(config), precision(config)
    mixed = chosen_precision.endswith("-mixed")
    gathered_as_bf16 = (
        chosen_precision == "bf16-mixed"
    )  # modules.training.sharding; blocks are gathered as float32 otherwise
    # A layout takes no memory, and fake weights can't be given another.
    model["init_args"].setdefault("training", {})["channels_last"] = False
    with shapes_only():
        stage = builder(model)()
    per_parameter = kept_bytes(stage)
    settings: list[bool | None] = [value for value in (False, True) if with_checkpointing(model, value) is not None]

    @cache
    def active(checkpointing: bool | None, sharded: bool) -> int:
        chosen = model if checkpointing is None else with_checkpointing(model, checkpointing)
        assert chosen is not None
        return activations(builder(chosen), batch, bf16=mixed, sharded=sharded)

    rows = []
    for count in devices:
        for sharded in (False, True) if count > 1 and stage.shardable else (False,):
            for checkpointing in settings or [None]:
                own = active(checkpointing, sharded and gathered_as_bf16)
                need = memory(stage.network, per_parameter, own, devices=count, sharded=sharded, bf16=gathered_as_bf16)
                rows.append(Row(count, Strategy(sharded, checkpointing), need))
    return stage, rows


def precision(config: dict[str, Any]) -> str:
    """The Trainer's precision, by its full name.

    Raises:
        InputError: one that is not counted.
    """
    given = str(config["trainer"].get("precision"))
    found = ALIASES.get(given, given)
    if found not in PRECISIONS:
        why = "; 16-bit weights and averages would round most of a step away" if "16" in given else ""
        raise InputError(f"trainer.precision: {given!r} is not counted, {', '.join(PRECISIONS)} are{why}")
    return found


def batch_size(config: dict[str, Any]) -> int:
    """Samples a device.

    Raises:
        InputError: the data do not say how many, or none.
    """
    found = (config["data"].get("init_args") or {}).get("batch_size")
    if not isinstance(found, int) or found < 1:
        raise InputError(f"data.init_args.batch_size must be a whole number above 0 to plan for, not {found!r}")
    return found


def report(config: dict[str, Any], devices: list[int], size: float) -> str:
    """What `unclip plan` prints."""
    stage, rows = plan(config, devices)
    parameters = sum(p.numel() for p in stage.network.parameters())
    unit = unit_of(rows)
    lines = [["devices", "strategy", *(f"{name}" for name in EXPLAINED), unit, "fits", "accumulate"]]
    for row in rows:
        cells = [f"{value / UNITS[unit]:.1f}" for value in (*vars(row.need).values(), row.need.total)]
        fits = "yes" if row.fits(size) else "no"
        lines.append([str(row.devices), row.strategy.name(row.devices), *cells, fits, accumulate(config, row.devices)])
    notes = [f"{name}: {text}." for name, text in EXPLAINED.items()]
    if stage.training_config.compile:
        notes.append("The config compiles the network, which usually keeps less for the backward pass than is counted.")
    return "\n".join(
        [
            f"{type(stage).__name__}: {f'{parameters / 1e9:.2f} B' if parameters >= 1e9 else millions(parameters)} "
            f"parameters, batch {batch_size(config)} a device, precision {precision(config)}; {unit} on each device, "
            f"{FREE:.0%} of whose {size / 1e9:g} GB are left free",
            "",
            aligned(lines),
            "",
            verdict(rows, size),
            "",
            *notes,
        ]
    )


def unit_of(rows: list[Row]) -> str:
    """The largest unit that the largest need is one of."""
    most = max(row.need.total for row in rows)
    return next((unit for unit, size in UNITS.items() if most >= size), "kB")


def accumulate(config: dict[str, Any], devices: int) -> str:
    """accumulate_grad_batches that keeps the config's batch of a step on other devices.

    Where none does it at the config's batch size, '-' and the largest smaller batch that does, with its accumulation;
    '-' alone where there is none, or the config does not say how many devices it is for.
    """
    trainer, batch = config["trainer"], batch_size(config)
    there, nodes = str(trainer.get("devices")), trainer.get("num_nodes") or 1
    if not there.isdigit() or int(there) < 1:  # auto, or a list of them
        return "-"
    batches = int(there) * nodes * (trainer.get("accumulate_grad_batches") or 1)
    if batches % devices == 0:
        return str(batches // devices)
    each, rest = divmod(batch * batches, devices)
    if rest:
        return "-"
    times = next(k for k in range(1, each + 1) if each % k == 0 and each // k <= batch)
    return f"- (batch {each // times}{f', {times} times' if times > 1 else ''})"


def verdict(rows: list[Row], size: float) -> str:
    """The smallest number of devices with the simplest strategy that fits, and its flags."""
    unit = unit_of(rows)
    row = next((row for row in rows if row.fits(size)), None)
    if row is None:
        least = min(rows, key=lambda row: row.need.total)
        return (
            f"None fits; the least is {least.need.total / UNITS[unit]:.1f} {unit}, "
            f"{least.strategy.name(least.devices)} on {least.devices}: "
            "more devices, more memory (--memory) or a smaller batch (--data.init_args.batch_size=1)"
        )
    flags = [] if row.devices == 1 else [FSDP2_FLAGS.format(devices=row.devices) if row.strategy.sharded else DDP_FLAG]
    if row.strategy.checkpointing is not None:
        flags.append(f"checkpointing: {str(row.strategy.checkpointing).lower()} in the network")
    return (
        f"The smallest that fits: {row.devices} x {row.strategy.name(row.devices)}, "
        f"{row.need.total / UNITS[unit]:.1f} {unit}" + (f" ({'; '.join(flags)})" if flags else "")
    )
