"""A linear prior and a decoder on 64 pairs, to be trained by `unclip fit` with any of the Trainer's settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from experiments.cli import main


class Spy(Callback):
    """What each step sees: the batch's indices and the learning rate."""

    batches: list[list[int]]
    rates: list[float]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        type(self).batches.append(batch.index.tolist())
        type(self).rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class Validations(Callback):
    """The steps at which validation ran, and how many batches it saw."""

    seen: list[tuple[int, int]]

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        type(self).seen.append((trainer.global_step, batch_idx))


def stage_config(tiny, stage: str, data: dict, **trainer) -> dict:
    path, network, arguments, more = tiny.STAGES[stage]
    if stage == "decoder":
        more = {**more, "objective": {**more["objective"], "learned_sigma": False}}
    return {
        "trainer": {"accelerator": "cpu", "max_steps": 6, "default_root_dir": f"runs/{stage}", **trainer},
        "model": {
            "class_path": path,
            "init_args": {
                "network": {"class_path": network, "init_args": arguments},
                **more,
                "training": {"warmup_steps": 1, "ema_decay": 0.5},
            },
        },
        "data": data,
    }


@pytest.fixture
def fit(tiny, embeddings, tmp_path, monkeypatch, capsys):
    """`fit(*words, stage=...)` runs `unclip fit`: 64 pairs in batches of 24, 6 steps. Gives what came of it."""
    monkeypatch.chdir(tmp_path)
    of_embeddings = {
        "class_path": "datamodules.embeddings.EmbeddingsDataModule",
        "init_args": {"folder": str(embeddings), "batch_size": 24},
    }
    of_pictures = {
        "class_path": "datamodules.shapes.ShapesDataModule",
        "init_args": {
            "image_size": 16,
            **tiny.SIZES,
            "batch_size": 24,
            "cache_dir": None,
            "embeddings": str(embeddings),
        },
    }
    for stage, data in (("linear_prior", of_embeddings), ("diffusion_prior", of_embeddings), ("decoder", of_pictures)):
        Path(f"{stage}.yaml").write_text(yaml.safe_dump(stage_config(tiny, stage, data)))

    def run(*words: str, stage: str = "linear_prior") -> SimpleNamespace:
        Spy.batches, Spy.rates, Validations.seen = [], [], []
        capsys.readouterr()
        code = main(["fit", "--config", f"{stage}.yaml", *words])
        out, err = capsys.readouterr()
        folder = Path("runs") / stage
        last = folder / "checkpoints" / "last.ckpt"
        about = folder / "export" / "config.yaml"
        return SimpleNamespace(
            code=code, out=out, err=err, folder=folder,
            batches=Spy.batches, rates=Spy.rates, validations=Validations.seen,
            step=torch.load(last, weights_only=True)["global_step"] if last.exists() else None,
            exported=yaml.safe_load(about.read_text())["step"] if about.exists() else None,
        )  # fmt: skip

    return run


@pytest.fixture
def spy() -> tuple[str, ...]:
    """Words that add the two callbacks above."""
    return f"--trainer.callbacks+={Spy.__module__}.Spy", f"--trainer.callbacks+={Spy.__module__}.Validations"
