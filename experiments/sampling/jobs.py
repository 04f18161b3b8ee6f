"""A drawing job, its batches by picture number, and the writer that puts each batch on disk."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from eval.samples.folder import SampleFolder
from eval.samples.shards import Shards
from experiments.console.progress import Progress
from experiments.sampling.captions import Request
from modules.models.licences import joined
from modules.pipeline import UnCLIP


@dataclass(frozen=True)
class Job:
    """The pictures of one command. Picture k is sample k mod n of caption k div n.

    Attributes:
        requests: the captions.
        n: pictures of each.
        condition: see `UnCLIP.embedding`.
        seed: of the run.
        upsample: whether the upsamplers enlarge them.
        shared: what all manifest lines say of how the pictures were made.
        source: the folder of the true images, for image_embedding.
        size: how far the upsamplers enlarge them; by default to the largest that they reach.
        negative: a caption that all are guided away from.
        decoder: the stage that draws; by default the condition's own.
        best_of: candidates of each picture, of which the system's ranking CLIP chooses one.
    """

    requests: list[Request]
    n: int
    condition: str
    seed: int
    upsample: bool
    shared: dict[str, Any]
    source: SampleFolder | None = None
    size: int | None = None
    negative: str | None = None
    decoder: str | None = None
    best_of: int = 1

    def __len__(self) -> int:
        return len(self.requests) * self.n

    @property
    def label(self) -> str:
        """The label of the progress bar."""
        return f"sampling {self.condition}"

    def batches(self, size: int, finished: Container[int]) -> list[list[int]]:
        """Batches of picture numbers, cut every `size` numbers; finished pictures are left out of theirs."""
        parts = (range(start, min(start + size, len(self))) for start in range(0, len(self), size))
        left = ([k for k in part if k not in finished] for part in parts)
        return [part for part in left if part]

    def record(self, k: int) -> dict[str, Any]:
        """The manifest line of picture k, without its file."""
        request = self.requests[k // self.n]
        place = {"caption": request.caption, "caption_index": request.index, "sample_index": k % self.n}
        true = {} if self.source is None else {"true_image": self.source.records[request.image(k % self.n)]["file"]}
        whom = joined(of.get("attribution") for of in (self.shared, request.known))  # of the models, of the captions
        named = {} if whom is None else {"attribution": whom}
        return {**place, "seed": self.seed, **self.shared, **true, **request.known, **named}

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
            self.negative,
            self.decoder,
            self.best_of,
        )
        return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    def true_images(self, numbers: list[int]) -> Tensor | None:
        """(B, 3, H, W) in [-1, 1]: for sample k of a caption, that caption's real image k."""
        if self.source is None:
            return None
        places = [self.requests[k // self.n].image(k % self.n) for k in numbers]
        return torch.cat([self.source.images(place, place + 1) for place in places]).float() / 127.5 - 1


@dataclass(frozen=True)
class Drawing:
    """A job, what draws it, and where it goes.

    Attributes:
        system: the trained stages.
        job: the pictures.
        shards: the sample folder in the making.
        batch_size: pictures at once.
        finished: pictures that were there before.
    """

    system: UnCLIP
    job: Job
    shards: Shards
    batch_size: int
    finished: int = 0

    def batches(self, rank: int = 0, ranks: int = 1) -> list[list[int]]:
        """The numbers of the pictures that one of several processes has to draw, batch by batch."""
        return self.job.batches(self.batch_size, self.shards.lines())[rank::ranks]


class BatchWriter:
    """Writes the batches of one process. The first process also shows the progress of all.

    Args:
        drawing: what is drawn.
        rank: of this process.
        ranks: how many processes draw.
    """

    def __init__(self, drawing: Drawing, rank: int = 0, ranks: int = 1) -> None:
        self.drawing, self.rank, self.ranks = drawing, rank, ranks
        self._bar: Progress[None] | None = None

    def __enter__(self) -> BatchWriter:
        if self.rank == 0:
            self._bar = Progress(self.drawing.job.label, len(self.drawing.job), done=self.drawing.finished)
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.__exit__(kind, error, trace)
            self._bar = None

    def write(self, numbers: list[int], pictures: Tensor) -> None:
        """Write the pictures of these numbers, uint8 (B, 3, H, W).

        Raises:
            InputError: a full disk.
        """
        job = self.drawing.job
        self.drawing.shards.write(self.rank, numbers, pictures, [job.record(k) for k in numbers])
        if self._bar:  # An estimate: the other processes are taken to be as far as this one.
            self._bar.update(min(self._bar.done + len(numbers) * self.ranks, len(job)))

    def complete(self) -> None:
        """All processes have drawn their batches."""
        if self._bar:
            self._bar.update(len(self.drawing.job))
