"""Drawing many pictures: in batches, each written as soon as it is drawn, on one device or on several.

Pictures are cut into batches by their number before the batches are shared out. So every picture is always drawn in
the same batch, and is the same bit for bit on one process or several, with or without a restart. One device draws
here, without Lightning. Several devices draw in a predict run of Lightning's: `experiments.sampling.distributed`.
"""

from __future__ import annotations

import torch

from experiments.console.signals import leaving_on_preemption
from experiments.sampling.jobs import BatchWriter, Drawing


def first_process(devices: int) -> bool:
    """Whether this is the first of the processes that draw together; with one device there are no others."""
    if devices == 1:
        return True
    from experiments.sampling.distributed import is_first_process

    return is_first_process()


def draw(drawing: Drawing, device: torch.device, devices: int = 1, strategy: str = "auto") -> None:
    """Draw the pictures of a job that are not finished yet, on this process or on several that Lightning starts.

    Args:
        drawing: the job.
        device: its type and, if it has one and `devices` is 1, its number.
        devices: how many processes, each with a device.
        strategy: of Lightning's Trainer; "auto" on one device is no Trainer at all.

    Raises:
        InputError: the devices or the strategy do not exist, or the disk is full.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: with 75, for a scheduler's signal. What is finished is on disk.
    """
    if devices > 1 or strategy != "auto":
        from experiments.sampling.distributed import predict

        predict(drawing, device, devices, strategy)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with leaving_on_preemption(), BatchWriter(drawing) as writer, torch.no_grad():
        for numbers in drawing.batches():
            writer.write(numbers, drawing.job.draw(drawing.system, numbers))
        writer.complete()
