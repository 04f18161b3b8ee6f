"""Training curves of a run, read from TensorBoard's event files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.errors import InputError
from eval.figures.canvas import plain
from eval.untrusted import open_regular, reason, within

CURVES = {"loss": ("loss",), "score": ("accuracy", "retrieval", "cosine")}
"""The panels of a stage's curves -> words in the names of the scalars that they show."""


PATTERN = "events.out.tfevents.*"
HEADER, FOOTER = 12, 4
"""Bytes before a record, its length and a checksum of that, and after it."""
MAX_EVENT = 2**28
"""Bytes of a record: 64 pictures of 1024 px as PNG."""

Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """All scalars in TensorBoard event files right in `folder`: name -> (steps, values); {} if there are none.

    Raises:
        InputError: one of the files is no file of events.
    """
    files = sorted(folder.glob("*tfevents*"))
    if not any(path.match(PATTERN) for path in files):
        return {}
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in files:
        _check_records(within(folder, path))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 1000})
    try:
        events.Reload()
    except (DecodeError, ValueError) as error:
        raise InputError(f"a file of events in {folder} is damaged ({reason(error)}); move it away") from error
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        curves[tag] = ([step for step, _ in points], [value for _, value in points])
    return curves


def _check_records(path: Path) -> None:
    """Refuse what TensorBoard's reader would wait for or take memory for; a last record that was cut off is none.

    Raises:
        InputError: a FIFO or a device, or a record that says that it is larger than any.
        OSError: it cannot be read.
    """
    from tensorboard.summary.writer.record_writer import masked_crc32c

    with open_regular(path) as file:
        end = file.seek(0, os.SEEK_END)
        place = 0
        while place + HEADER <= end:
            file.seek(place)
            said, checksum = file.read(8), int.from_bytes(file.read(4), "little")
            if masked_crc32c(said) != checksum:
                return  # As far as the reader goes.
            length = int.from_bytes(said, "little")
            if length > MAX_EVENT:
                raise InputError(f"{path} is damaged: a record says that it has {length:,} bytes; move it away")
            place += HEADER + length + FOOTER


def plot_curves(title: str, curves: Mapping[str, Curve]) -> bytes | None:
    """A PNG of a stage's losses and, if it has some, its scores; None if there is nothing to plot."""
    from matplotlib.figure import Figure

    panels = {kind: _of_kind(curves, words) for kind, words in CURVES.items()}
    panels = {kind: chosen for kind, chosen in panels.items() if chosen}
    if not panels:
        return None
    figure = Figure(figsize=(4.2, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (kind, chosen) in zip(axes, panels.items(), strict=True):
        for name, (steps, values) in chosen.items():
            axis.plot(steps, values, label=plain(name), linewidth=1.2, marker="." if len(steps) < 3 else None)
        if kind == "loss" and all(value > 0 for _, values in chosen.values() for value in values):
            axis.set_yscale("log")
        axis.set_ylabel(kind)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_title(plain(title), fontsize=10)
    axes[-1].set_xlabel("step")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _of_kind(curves: Mapping[str, Curve], words: Sequence[str]) -> dict[str, Curve]:
    return {name: curve for name, curve in curves.items() if any(word in name for word in words)}
