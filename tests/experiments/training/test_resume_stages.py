"""Every stage, cut off in the middle of a pass over its data and resumed, ends where an uninterrupted run does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.made_up_data import formats
from benchmarks.trials.compare import differing_runs
from datamodules.pictures.module import SplitConfig
from datamodules.rendered.scenes import ATTRIBUTES
from datamodules.webdataset import WebDatasetDataModule
from experiments.cli import main
from experiments.embeddings.embed import embed
from experiments.training.checkpoint_files import earlier
from experiments.training.checkpoints import LAST, load_checkpoint
from modules.clip.frozen import FrozenCLIP

STAGES = ["clip", "classifier", "linear_prior", "ar_prior", "diffusion_prior", "decoder", "glide", "upsampler"]
SHARDS = "decoder on webdataset shards"
OWN_IMAGES = ("clip", "classifier", "upsampler")


def model(stage: str, tiny: Any) -> dict[str, Any]:
    """A stage's `model` in YAML."""
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "fused": True}}
    training = {"ema_decay": 0.9, "warmup_steps": 3, "decay_share": 0.3}
    if stage == "classifier":
        attributes = {name: list(classes) for name, classes in ATTRIBUTES.items()}
        own = {"attributes": attributes, "image_size": 16, "width": 8, "features": 16}
        return {
            "class_path": "eval.judges.attributes.AttributeClassifier",
            "init_args": {**own, "optimizer": optimizer},
        }
    if stage == "clip":
        own = {**tiny.CLIP, "swap_words": [["above", "below"]], "sam_rho": 0.05}
        path = "modules.clip.CLIPTrainer"
    else:
        path, network, arguments, own = tiny.STAGES[stage]
        own = {"network": {"class_path": network, "init_args": arguments}, **own}
    if "objective" in own:
        # Drawn by importance, which is a state too.
        drawn = {"timesteps": "loss_second_moment", "learned_sigma": False}
        own = {**own, "objective": {**own["objective"], **drawn}, "statistics_samples": 16}
    return {"class_path": path, "init_args": {**own, "optimizer": optimizer, "training": training}}


def data(stage: str, embeddings: Path, tiny: Any) -> dict[str, Any]:
    """Its `data`: 64 samples, so that 24 of them end in the middle of a pass, by two worker processes."""
    if stage.endswith("prior"):
        path, own = "datamodules.embeddings.EmbeddingsDataModule", {"folder": str(embeddings)}
    else:
        path = "datamodules.shapes.ShapesDataModule"
        own = {"image_size": 32 if stage == "upsampler" else 16, "cache_dir": "cache", **tiny.SIZES}
        own["embeddings"] = None if stage in OWN_IMAGES else str(embeddings)
    return {"class_path": path, "init_args": {**own, "batch_size": 24, "num_workers": 2}}


def shard_data(folder: Path, clip_folder: Path) -> dict[str, Any]:
    """The same of webdataset shards of 41 training pairs, with embeddings of theirs; written here."""
    formats.write_shards(folder / "shards", formats.samples(64, size=24), [20, 9, 35])
    place = {"image_size": 16, "batch_size": 24, "num_workers": 2, "cache_dir": "cache"}
    splits = {"val_share": 0.2, "test_share": 0.15}
    section = formats.FORMATS["shards"].section(folder / "shards", splits=splits, **place)
    pairs = WebDatasetDataModule(**{**section["init_args"], "splits": SplitConfig(**splits)})
    embed(pairs, FrozenCLIP(str(clip_folder)), folder / "embeddings")
    assert 24 < pairs.size("train") < 48  # The second batch reaches into another pass.
    section["init_args"]["embeddings"] = str(folder / "embeddings")
    return section


def fit(folder: str) -> dict[str, Any]:
    words = ["--config", "stage.yaml", f"--trainer.default_root_dir={folder}", "--ckpt_path", "last"]
    assert main(["fit", *words]) == 0
    return load_checkpoint(Path(folder) / LAST)


@pytest.mark.parametrize("stage", [*STAGES, SHARDS])
def test_a_stage_goes_on_as_if_nothing_had_been(stage, tiny, embeddings, clip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    trainer = {"max_steps": 7, "val_check_interval": 3, "limit_val_batches": 1, "accelerator": "cpu", "logger": False}
    config = {
        "seed_everything": 3,
        "trainer": {**trainer, "gradient_clip_val": 1.0},
        "checkpoint": {"every_n_train_steps": 2, "keep": 4},
        "model": model(stage.split()[0], tiny),
        "data": shard_data(tmp_path, clip_folder) if stage == SHARDS else data(stage, embeddings, tiny),
    }
    Path("stage.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    whole = fit("whole")
    # What a kill after step 4 or 5 leaves: the checkpoint of step 4, and no more.
    killed = Path("killed") / LAST
    killed.parent.mkdir(parents=True)
    shutil.copy("whole/config.yaml", "killed/config.yaml")
    shutil.copy(earlier(Path("whole") / LAST, 2), killed)
    assert load_checkpoint(killed)["global_step"] == 4
    resumed = fit("killed")
    assert whole["global_step"] == resumed["global_step"] == 7
    assert whole["optimizer_states"][0]["state"] and whole["lr_schedulers"] and whole["callbacks"]
    assert list(Path("whole/export").glob("*.safetensors"))
    assert differing_runs(Path("whole"), Path("killed")) == []
