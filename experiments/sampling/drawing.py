"""Drawing many pictures: in batches, each written as soon as it is drawn, on one device or on several.

Pictures are cut into batches by their number, before they are given to ranks: so every picture is drawn in the same
company, and comes out the same to the bit, on one process or on several, in one go or in two. One device is drawn on
here, without Lightning; several are a predict run of it, see `experiments.sampling.distributed`.
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
    """Draw what is left of a job, on this process or on several that a strategy of Lightning's starts.

    Args:
        drawing: the job.
        device: its type and, if it has one and `devices` is 1, its number.
        devices: how many processes, each with a device.
        strategy: of Lightning's Trainer; "auto" on one device is no Trainer at all.

    Raises:
        InputError: there are no such devices, or there is no such strategy; or a full disk.
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
