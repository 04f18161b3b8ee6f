"""One rank of two: trains tiny stages under DDP and FSDP2 and writes down what came out. Run by `conftest.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy

from experiments.costs.memory import norms_in_float32
from modules.dalle1.token_transformer import TokenTransformer
from modules.models.configs import Objective, SamplerConfig
from modules.training.muon import Muon
from modules.training.stage import TrainingConfig

WORLD = 2
TRAINING = TrainingConfig(ema_decay=0.5, warmup_steps=1)
STEPS, SAVED = 4, 2
POSITIONS = {"clip": 20, "clip_sam": 20, "diffusion_prior": 24, "narrow": 16 * 16}
"""Stage -> places of a sample that share a weight: tokens of a caption, of the prior's sequence, pixels."""
NARROW = {
    "channels": 8,
    "channel_multipliers": [1, 2],
    "depth": 1,
    "attention_resolutions": [8, 4],
    "head_channels": 8,
    "image_size": 16,
    "checkpointing": True,
}
LEARNED = {
    "objective": Objective(learned_sigma=True),
    "sampler": SamplerConfig("ddpm", 2, "adm", variance="learned"),
}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of all of a tensor; every rank must ask."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def apart(gradients: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The greatest difference, as a part of the largest gradient of its tensor where that is above 1."""
    assert gradients.keys() == others.keys()
    scales = {name: max(1.0, float(g.abs().max())) for name, g in others.items()}
    return max(float((gradients[name] - g).abs().max()) / scales[name] for name, g in others.items())


def rounding(name: str, network: torch.nn.Module, samples: int = 8) -> float:
    """How far `apart` the gradients of two runs may be that add the same float32 numbers in another order.

    A sum of n terms takes n - 1 additions. Each of them errs by at most eps / 2 of the partial sum that it gives. The
    errors have either sign, so they add up as a random walk does: to sqrt(n) eps / 2 in units of the partial sums
    (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019, theorem 2.4). Two orders are
    then at most sqrt(n) eps apart. `apart` takes 1 for the unit, which is the size of normalised activations, or the
    largest gradient of the tensor where that is larger.

    n counts all sums on the way to a gradient, since squares of independent errors add up. A matrix sums over its
    inputs going forward and over its outputs going back. A weight's gradient sums over all samples and over the
    positions of each. SAM goes this way twice: its perturbation is a gradient too.

    Args:
        name: of the stage, as `stage_of` takes it.
        network: what is trained.
        samples: of all ranks together, in one step.
    """
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    n = samples * POSITIONS[name] + sum(m[0].numel() + m[:, 0].numel() for m in matrices)
    gradients = 2 if name == "clip_sam" else 1
    return (gradients * n) ** 0.5 * torch.finfo(torch.float32).eps


class Record(Callback):
    """Gradients and averages of every step, and a checkpoint after step SAVED."""

    def __init__(self, root: Path | None = None) -> None:
        self.root, self.gradients, self.averages = root, [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        grads = {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}
        self.gradients.append({name: whole(grad) for name, grad in grads.items()})

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.averages.append({name: whole(p) for name, p in module.averaged.named_parameters()})
        if self.root is not None and trainer.global_step == SAVED:
            trainer.save_checkpoint(self.root / "saved.ckpt", weights_only=False)

    def result(self, trainer, module) -> dict[str, Any]:
        return {
            "gradients": self.gradients,
            "averages": self.averages,
            "weights": {name: whole(p) for name, p in module.network.named_parameters()},
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }


def narrow_decoder(tiny: Any, seed: int = 0) -> Any:
    """A decoder as the paper's, but narrow: learned sigma, attention, activation checkpointing; no weight is zero."""
    network = tiny.randomise(tiny.make_network("decoder", unet=NARROW, learned_sigma=True), seed).train()
    return tiny.make_stage("decoder", network, training=TRAINING, **LEARNED)


def stage_of(tiny: Any, name: str, seed: int = 0) -> Any:
    """A stage by name, its weights none of them zero."""
    if name == "muon":
        unet = {**NARROW, "channels": 16, "head_channels": 16, "body": "lean", "checkpointing": False}
        network = tiny.randomise(tiny.make_network("decoder", unet=unet), seed).train()
        return tiny.make_stage("decoder", network, training=TRAINING)
    if name == "narrow":
        return narrow_decoder(tiny, seed)
    if name in ("clip", "clip_sam"):
        torch.manual_seed(seed)
        sam_rho = 0.5 if name == "clip_sam" else 0.0
        return tiny.make_stage("clip", training=TRAINING, swap_words=[("above", "below")], sam_rho=sam_rho)
    network = tiny.randomise(tiny.make_network(name), seed).train()
    if name == "token_transformer":
        folder = Path(tempfile.mkdtemp())  # Of this rank; the weights are the same on both.
        tiny.write_stage(folder, "dvae", tiny.make_network("dvae"))
        return TokenTransformer(network, str(folder), training=TRAINING)
    return tiny.make_stage(name, network, training=TRAINING)


def data_of(name: str, embeddings: str, batch_size: int) -> Any:
    """The shapes that a stage is trained on; upsamplers have larger ones."""
    from datamodules.shapes import ShapesDataModule

    sizes = {"train_size": 64, "val_size": 12, "test_size": 12}
    return ShapesDataModule(
        32 if name == "upsampler" else 16, batch_size, **sizes, embeddings=embeddings, cache_dir=None
    )


def train(tiny: Any, name: str, embeddings: str, root: Path, batch_size: int, **options: Any) -> dict[str, Any]:
    """Train a stage; what `Record` saw. `seed` is of its first weights, `resumed` a checkpoint to go on from."""
    root.mkdir(parents=True, exist_ok=True)
    record = Record(root)
    module = options.pop("module", None) or stage_of(tiny, name, options.pop("seed", 0))
    resumed, steps = options.pop("resumed", None), options.pop("steps", STEPS)
    data = data_of(name, embeddings, batch_size)
    # Fused, with clipping, as in a run. The epsilon keeps gradients that are nothing but rounding (a key's bias has
    # none) from becoming steps.
    module.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3, fused=True)
    if name == "muon":
        module.optimizer = lambda parameters: Muon(parameters, lr=1e-2, eps=1e-3)
    trainer = tiny.fit(module, data, steps, root, resumed, callbacks=[record], **options)
    return record.result(trainer, module)


ODD = 13
"""Samples of a split that two ranks do not divide: they see 7 and 6."""


def odd_validation(tiny: Any, name: str, root: Path, **options: Any) -> dict[str, float]:
    """What a LightningModule logs in the validation of `ODD` samples, all of which are judged."""
    import lightning

    from datamodules.rendered import scenes
    from datamodules.shapes import ShapesDataModule
    from eval.judges.attributes import AttributeClassifier

    torch.manual_seed(0)
    if name == "classifier":
        attributes = {key: list(classes) for key, classes in scenes.ATTRIBUTES.items()}
        module, side, batch_size = AttributeClassifier(attributes, image_size=16, width=4, features=5), 16, 4
    else:
        module, side, batch_size = stage_of(tiny, name), 32, 16  # A stage judges its first batch.
    data = ShapesDataModule(side, batch_size, train_size=16, val_size=ODD, test_size=12, cache_dir=None)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"accelerator": "cpu", "default_root_dir": str(root), "use_distributed_sampler": False, **quiet}
    trainer = lightning.Trainer(**settings, **options)
    (found,) = trainer.validate(module, datamodule=data, verbose=False)
    return {key: float(value) for key, value in found.items()}


def odd_metrics(rank: int = 0, world: int = 1) -> dict[str, list[float]]:
    """Intervals of metric objects of `ODD` samples, the first of them on every rank, as samplers that pad have it."""
    from eval.metrics.objects.base import CaptionShare
    from eval.metrics.objects.distances import Frechet, KernelDistance, StreamingFrechet

    draw = torch.Generator().manual_seed(0)
    features, real = torch.randn(ODD, 4, generator=draw), torch.randn(20, 4, generator=draw) + 0.5
    rows = torch.tensor([*range(rank, ODD, world), 0])
    objects = {"share": CaptionShare(20), "kid": KernelDistance(real, 20), "frechet": Frechet(real, 20)}
    for name, metric in objects.items():
        values = (features[:, 0] > 0).double() if name == "share" else features
        metric.update(values[rows], rows // 2, rows)
    streaming = StreamingFrechet(4)
    streaming.update(features[rank::world])
    streaming.update(real[rank::world], real=True)
    return {name: list(metric.interval()) for name, metric in objects.items()} | {"sums": [float(streaming.compute())]}


def odd(tiny: Any, root: Path, rank: int) -> dict[str, dict[str, Any]]:
    """All that is judged of `ODD` samples by two ranks."""
    options = {"strategy": "ddp", "devices": WORLD}
    stages = {name: odd_validation(tiny, name, root, **options) for name in ("classifier", "upsampler")}
    return {**stages, "metrics": odd_metrics(rank, WORLD)}


def strategy(kind: str) -> Any:
    """What Trainer(strategy=...) takes."""
    if kind == "ddp":
        return "ddp"
    return ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1, save_distributed_checkpoint=False)


def run_job(tiny: Any, job: dict[str, Any], embeddings: str, root: Path, rank: int) -> dict[str, Any]:
    """One training of a list of jobs."""
    options: dict[str, Any] = dict(job.get("trainer", {}))
    if job.get("validate"):  # with samples for TensorBoard; and between two steps, which must not notice it
        options |= {"limit_val_batches": 1, "val_check_interval": 1}
        options["logger"] = TensorBoardLogger(root, name="", version="")
        if rank == 0:
            (root / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": job["stage"], "init_args": {}}}))
    options |= {"strategy": strategy(job["strategy"]), "devices": WORLD, "steps": job.get("steps", STEPS)}
    if "resumed" in job:
        options["resumed"] = Path(job["resumed"])
    # Other weights on the other rank: all have to begin with the first one's.
    with as_an_accelerator() if job.get("accelerator") else nullcontext():
        return train(tiny, job["stage"], embeddings, root, job["batch_size"], seed=rank, **options)


@contextmanager
def as_an_accelerator() -> Any:
    """Norms in float32 under autocast, so that blocks may be gathered as bfloat16."""
    with norms_in_float32(), mock.patch("modules.training.sharding.gathers_bf16", return_value=True):
        yield


def tiny_stages() -> Any:
    """What tests/conftest.py holds."""
    from types import SimpleNamespace

    spec = importlib.util.spec_from_file_location("tiny_stages", Path(__file__).parents[2] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(**vars(module))


def main(folder: Path, rank: int) -> None:
    """Do all jobs of FOLDER/jobs.json; FOLDER/NAME.RANK.pt is what came of each."""
    torch.set_num_threads(1)
    plan = json.loads((folder / "jobs.json").read_text())
    # As torchrun sets them; but a file brings the ranks together, so that no port has to be free.
    for key, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "GROUP_RANK": 0}.items():
        os.environ[key] = str(value)
    os.environ["TORCHELASTIC_RUN_ID"] = "tests"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=300)
    )
    tiny = tiny_stages()
    for name, job in plan["jobs"].items():
        root = folder / name
        root.mkdir(exist_ok=True)
        result = odd(tiny, root, rank) if job.get("odd") else run_job(tiny, job, plan["embeddings"], root, rank)
        torch.save(result, folder / f"{name}.{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
