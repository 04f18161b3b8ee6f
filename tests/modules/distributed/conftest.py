"""Two processes on this machine, gloo between them, that do a list of trainings; and the same in one process."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks.trials.forked import Forked

HERE = Path(__file__).parent
# Before 2.7, torch's FSDP2 asks a CPU for streams that it has not.
FSDP2_ON_CPU = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)
LIMIT = 560  # seconds; some 40 on an idle machine


@pytest.fixture(scope="session")
def worker() -> ModuleType:
    """worker.py as a module."""
    spec = importlib.util.spec_from_file_location("distributed_worker", HERE / "worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_ranks(folder: Path, jobs: dict[str, Any], embeddings: Path) -> None:
    """Start both ranks and wait; fail with what they said if one of them fails or neither ends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs, "embeddings": str(embeddings)}))
    root = HERE.parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(2):
        words, log = [str(folder), str(rank)], folder / f"rank{rank}.log"
        ranks.append(Forked(words, root, environment, log, program=HERE / "worker.py"))
    end = time.monotonic() + LIMIT
    try:
        # When one rank fails, the other waits for it: stop then, not at the limit.
        while time.monotonic() < end and any(rank.poll() is None for rank in ranks):
            if any(rank.poll() not in (None, 0) for rank in ranks):
                break
            time.sleep(0.05)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    if any(rank.returncode for rank in ranks):
        said = "\n".join((folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
        pytest.fail(f"exit codes {[rank.returncode for rank in ranks]}:\n{said}")


class Joined:
    """Stands for the generators of all ranks: a draw for the whole batch is what each draws for its part of it."""

    device = torch.device("cpu")

    def __init__(self, generators: list[torch.Generator]) -> None:
        self.generators = generators


def joined(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.rand, randn or randint that knows `Joined`."""

    def run(*arguments: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        if not isinstance(generator, Joined):
            return draw(*arguments, generator=generator, **options)
        *first, size = arguments
        shape = (size,) if isinstance(size, int) else tuple(size)
        part = (shape[0] // len(generator.generators), *shape[1:])
        return torch.cat([draw(*first, part, generator=g, **options) for g in generator.generators])

    return run


@contextmanager
def noise_of_all_ranks(stage: Any, world: int = 2) -> Iterator[None]:
    """One process draws for its batch what `world` ranks draw for theirs, the first rank's share in front."""
    own = type(stage).generator

    def generator(*key: int) -> Joined:
        generators = []
        for rank in range(world):
            with mock.patch.object(type(stage), "global_rank", rank):
                generators.append(own(stage, *key))
        return Joined(generators)

    draws = {name: joined(getattr(torch, name)) for name in ("rand", "randn", "randint")}
    with mock.patch.object(stage, "generator", generator), mock.patch.multiple(torch, **draws):
        yield


@pytest.fixture(scope="session")
def alone(tiny: Any, worker: ModuleType, embeddings: Path) -> Callable[..., dict[str, Any]]:
    """Trains a stage in this process, at the batch of both ranks together and with their noise."""

    def run(name: str, root: Path, **options: Any) -> dict[str, Any]:
        stage = worker.stage_of(tiny, name)
        with noise_of_all_ranks(stage):
            return worker.train(tiny, name, str(embeddings), root, 8, module=stage, **options)

    return run


@pytest.fixture(scope="session")
def rounding(tiny: Any, worker: ModuleType) -> Callable[[str], float]:
    """How far apart the gradients of a stage may be by rounding: name -> `worker.rounding`."""
    return lambda name: worker.rounding(name, worker.stage_of(tiny, name).network)


ACCUMULATED = {"steps": 2, "trainer": {"accumulate_grad_batches": 2}}
STAGES = ("ar_prior", "diffusion_prior", "decoder", "token_transformer")


@pytest.fixture(scope="session")
def one(alone: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What came of a stage's training in one process: name -> (result, its folder). Each is trained once.

    "accumulated" is the narrow decoder with two batches a step.
    """
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def get(name: str) -> tuple[dict[str, Any], Path]:
        if name not in done:
            root = tmp_path_factory.mktemp(f"one_{name}")
            options = {"steps": ACCUMULATED["steps"], **ACCUMULATED["trainer"]} if name == "accumulated" else {}
            done[name] = alone("narrow" if options else name, root, **options), root
        return done[name]

    return get


@pytest.fixture(scope="session")
def two(one: Callable[[str], Any], embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What came of a training in two processes: name of the job, rank -> result; `two.folder` holds their files."""
    folder = tmp_path_factory.mktemp("two")
    jobs: dict[str, Any] = {
        f"ddp_{name}": {"stage": name, "strategy": "ddp", "batch_size": 4}
        for name in ("clip", "diffusion_prior", "narrow")
    }
    jobs["fsdp2_narrow"] = {"stage": "narrow", "strategy": "fsdp2", "batch_size": 4}
    jobs["ddp_clip_sam"] = {"stage": "clip_sam", "strategy": "ddp", "batch_size": 4, "steps": 1}
    jobs["odd"] = {"odd": True, "strategy": "ddp"}
    saved = str(one("narrow")[1] / "saved.ckpt")
    jobs["fsdp2_resumed"] = {"stage": "narrow", "strategy": "fsdp2", "batch_size": 4, "resumed": saved}
    for kind in ("ddp", "fsdp2"):
        for name in STAGES:
            job = {"stage": name, "strategy": kind, "batch_size": 4, "steps": 2, "validate": True}
            jobs[f"{kind}_{name}_validated"] = job
        bf16 = {"trainer": {"precision": "bf16-mixed"}, "accelerator": True}
        jobs[f"{kind}_accumulated"] = {"stage": "narrow", "strategy": kind, "batch_size": 4, **ACCUMULATED}
        jobs[f"{kind}_muon"] = {"stage": "muon", "strategy": kind, "batch_size": 4, "steps": 2}
        jobs[f"{kind}_bf16"] = {"stage": "narrow", "strategy": kind, "batch_size": 4, "steps": 2, **bf16}
    run_ranks(folder, {k: job for k, job in jobs.items() if FSDP2_ON_CPU or job["strategy"] == "ddp"}, embeddings)

    def get(name: str, rank: int = 0) -> dict[str, Any]:
        return torch.load(folder / f"{name}.{rank}.pt", weights_only=True)

    get.folder = folder  # type: ignore[attr-defined]
    return get
