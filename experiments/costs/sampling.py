"""The memory that drawing with a run takes: `unclip plan --sample RUN`. No weights are read, only their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.console.show import aligned
from experiments.costs.memory import LiveBytes, norms_in_float32, shapes_only
from experiments.training.callbacks import millions
from modules.clip.folder import check_config, check_folder, one_line, shapes_of
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.manipulations.enlarging import upsampler_names
from modules.models.exports import build, building, export_folder, model_class, read_config, weights_file
from modules.placement.settings import Placement
from modules.trained_run import TrainedRun
from modules.untrusted.weights import check_tensors, header_of

FREE = 0.1
"""Share of a device's memory that is left for its context, workspaces and fragments."""

WAYS = (Placement(), Placement("bf16"), Placement(offload=True), Placement("bf16", offload=True))
"""How a run can be held, the simplest first."""

UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


@dataclass(frozen=True)
class Need:
    """What one stage takes, in bytes.

    Attributes:
        name: of the stage.
        parameters: how many.
        weights, weights_half: in float32, and with matrices in bfloat16.
        active, active_half: the most that one evaluation of the network has alive beside the weights, in both.
    """

    name: str
    parameters: int
    weights: int
    weights_half: int
    active: int
    active_half: int

    def bytes_of(self, placement: Placement) -> tuple[int, int]:
        """Weights, and what is alive beside them."""
        return (self.weights_half, self.active_half) if placement.half else (self.weights, self.active)


def needs(run: str, condition: str, batch: int) -> list[Need]:
    """What each stage takes that a picture goes through, the CLIP first.

    Args:
        run: see `TrainedRun`.
        condition: see `modules.conditions`.
        batch: pictures at once.

    Raises:
        InputError: the run lacks a stage.
    """
    if condition not in CONDITIONS:
        raise InputError(f"unknown condition {condition!r}; there are {', '.join(CONDITIONS)}")
    system, own = TrainedRun(run), CONDITIONS[condition]
    names = [*((own.prior,) if own.prior else ()), own.decoder, *upsampler_names(system)]
    names = ["clip", *names] if system.needs_clip(condition) else names
    for name in names:
        if not system.has(name):
            raise InputError(f"the run {system.run} holds no trained {name}: train it, or name another --condition")
    clip = [_clip(system, batch)] if "clip" in names else []
    return [*clip, *(_stage(system, name, batch) for name in names if name != "clip")]


def total(found: list[Need], placement: Placement) -> int:
    """The most bytes taken at once: all weights and the largest evaluation; offloaded, one stage with its own."""
    pairs = [need.bytes_of(placement) for need in found]
    if placement.offload:
        return max(weights + active for weights, active in pairs)
    return sum(weights for weights, _ in pairs) + max(active for _, active in pairs)


def _stage(system: TrainedRun, name: str, batch: int) -> Need:
    folder = system.run / name
    kind, settings, path = model_class(folder), read_config(folder)["init_args"], weights_file(folder)
    with one_line(str(path), "train or export this stage again"):
        header = header_of(path)
    active = []
    for half in (False, True):
        with shapes_only():
            with building(path.parent, len(header)):
                model = build(kind, settings)
            _check_size(model.network, header, path)
            if half:
                _narrow(model.network)
            count = batch * getattr(model, "copies", 1)
            active.append(_peak(model.network, lambda m=model, n=count: m.output(m.example_batch(n)), half))  # type: ignore[misc]
    return _need(name, [tuple(tensor.shape) for tensor in header.values()], active)


def _check_size(network: nn.Module, header: dict[str, Tensor], path: Path) -> None:
    """Refuse a network of other tensors than its file has, before it is run."""
    expected = dict(network.state_dict())
    check_tensors(expected, {name: tensor for name, tensor in header.items() if name in expected}, path)


def _clip(system: TrainedRun, batch: int) -> Need:
    """The text tower at work, twice a caption for a negative one; its weights stay float32."""
    from modules.networks import quadrant_resnet  # noqa: F401 - registers it, for open_clip to build

    folder = export_folder(system.run / "clip")
    length = int(check_config(folder)["model_cfg"]["text_cfg"].get("context_length", 77))
    check_folder(folder, own=False)
    with one_line(str(folder), "train or export that CLIP again"):
        model = shapes_of(folder)
    tokens = torch.zeros(2 * batch, length, dtype=torch.int64, device="meta")
    active = _peak(model, lambda: model.encode_text(tokens), False)  # type: ignore[operator]
    shapes = [tuple(tensor.shape) for tensor in header_of(weights_file(folder)).values()]
    return _need("clip", shapes, [active, active], narrow=False)


def _need(name: str, shapes: list[tuple[int, ...]], active: list[int], narrow: bool = True) -> Need:
    numbers = [torch.Size(shape).numel() for shape in shapes]
    half = sum((2 if narrow and len(shape) > 1 else 4) * n for shape, n in zip(shapes, numbers, strict=True))
    return Need(name, sum(numbers), 4 * sum(numbers), half, *active)


def _narrow(network: nn.Module) -> None:
    """Make matrices bfloat16, as `modules.placement.precision` does; `to` does not do it for fake ones."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim > 1:
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16()))


def _peak(network: nn.Module, evaluate: Callable[[], object], half: bool) -> int:
    """The most bytes alive in an evaluation without gradients, besides the weights."""
    computing = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with LiveBytes(network) as live, _frozen(network), norms_in_float32() if half else nullcontext(), computing:
        evaluate()
    return live.peak


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients by the weights, not by torch.no_grad: samples of one caption are then not looked for."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)  # LiveBytes takes its hooks away.


def report(run: str, condition: str, batch: int, size: float) -> str:
    """What `unclip plan --sample RUN` prints.

    Args:
        run, condition, batch: see `needs`.
        size: of the device's memory, in bytes.
    """
    found = needs(run, condition, batch)
    most = max(total(found, way) for way in WAYS)
    unit = next((unit for unit, bytes_ in UNITS.items() if most >= bytes_), "kB")
    lines = [["stage", "parameters", "weights", "at work", "weights in bf16", "at work in bf16"]]
    for need in found:
        cells = (need.weights, need.active, need.weights_half, need.active_half)
        count = f"{need.parameters / 1e9:.2f} B" if need.parameters >= 1e9 else millions(need.parameters)
        lines.append([need.name, count, *(f"{value / UNITS[unit]:.2f}" for value in cells)])
    ways = [["way", unit, "fits"]]
    for way in WAYS:
        taken = total(found, way)
        ways.append([flags(way), f"{taken / UNITS[unit]:.2f}", "yes" if taken <= (1 - FREE) * size else "no"])
    chosen = next((way for way in WAYS if total(found, way) <= (1 - FREE) * size), None)
    verdict = (
        f"The simplest that fits: unclip sample --run {run} {flags(chosen)} --batch-size {batch}"
        if chosen
        else "None fits: take fewer pictures at once (--batch-size), the CPU (--device cpu), or more memory (--memory)"
    )
    return "\n".join(
        [
            f"{run}: {batch} pictures at once, condition {condition}; {unit}, of a device with {size / 1e9:g} GB, "
            f"{FREE:.0%} of which are left free",
            "",
            aligned(lines),
            "",
            aligned(ways),
            "",
            verdict,
            "",
            "at work: the most that is alive beside the weights in one evaluation of the network, guidance included.",
            "offload: one stage is held at a time; the others lie in their files.",
        ]
    )


def flags(placement: Placement) -> str:
    """The options of `unclip sample` for a placement."""
    words = (["--precision bf16"] if placement.half else []) + (["--offload"] if placement.offload else [])
    return " ".join(words) or "--precision 32"
