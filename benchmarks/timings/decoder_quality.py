"""How good a decoder's own pictures are (no upsampler), given true z_i and captions; for `speedrun`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.pictures.flat_regions import flatness
from datamodules.embeddings.folder import open_embeddings
from datamodules.rendered import scenes
from datamodules.transforms import to_float
from eval.judges.attributes import load_classifier
from eval.judges.features import AttributeExtractor
from eval.metrics import frechet, scoring
from modules.batches import EmbeddingBatch
from modules.images.tensors import to_uint8
from modules.models.decoder import DecoderModel
from modules.models.exports import load_model
from modules.seeds import image_generators

TIMESTEPS = (100, 300, 500, 700, 900)


@dataclass(frozen=True)
class Judged:
    """Test pairs, what is true of them, and the judge.

    Attributes:
        rows: the first N pairs' embeddings.
        pictures: (N, 3, S, S) uint8, the true ones.
        truth: everything in each scene, as `scenes.describe` says it.
        said: what each caption says of it.
        judge: the classifier.
        reference: of the features of 2,048 validation pictures.
    """

    rows: EmbeddingBatch
    pictures: Tensor
    truth: list[dict[str, object]]
    said: list[dict[str, object]]
    judge: AttributeExtractor
    reference: frechet.FrechetDistance

    @classmethod
    def of(cls, run: Path, count: int, size: int = 32) -> Judged:
        """The first `count` test pairs of a quickstart run's data, with its embeddings and classifier."""
        judge = AttributeExtractor(load_classifier(run / "classifier"))
        pairs = [scenes.make_pair("test", index) for index in range(count)]
        pictures = _pictures([scenes.render(pair.scene, size) for pair in pairs])
        val = _pictures([scenes.render(scenes.make_pair("val", index).scene, size) for index in range(2048)])
        features = judge(val).double().numpy()
        statistics = frechet.FeatureStatistics.of(features)
        rows = open_embeddings(run / "embeddings").rows("test")[list(range(count))]
        truth = [scenes.describe(pair.scene) for pair in pairs]
        return cls(rows, pictures, truth, [p.mentioned for p in pairs], judge, frechet.FrechetDistance(statistics))


def quality(model: DecoderModel, judged: Judged, seed: int = 0) -> dict[str, float]:
    """One row: shares of right attributes, the Frechet distance, and how flat grounds and objects are."""
    return judge_pictures(drawn(model, judged.rows, seed), judged)


def judge_pictures(pictures: Tensor, judged: Judged) -> dict[str, float]:
    """The row of uint8 pictures (N, 3, S, S) drawn for `judged`'s pairs."""
    seen = judged.judge.look(pictures)
    words = scoring.describe(seen.classes.numpy(), judged.judge.classifier.attributes)
    found = scoring.score_all(words, judged.truth)
    two = np.array([thing["count"] == 2 for thing in judged.truth])
    row = {name: float(np.nanmean(found[name])) for name in ("colour", "shape", "size", "relation", "all")}
    row["all, one"], row["all, two"] = float(found["all"][~two].mean()), float(found["all"][two].mean())
    row["said"] = float(np.nanmean(scoring.score_all(words, judged.said)["all"]))
    row["frechet"] = judged.reference(frechet.FeatureStatistics.of(seen.features.double().numpy()))
    row["ground"], row["object"] = flatness(pictures, judged.pictures)
    return row


@torch.no_grad()
def drawn(model: DecoderModel, rows: EmbeddingBatch, seed: int = 0, batch: int = 128) -> Tensor:
    """Pictures (N, 3, S, S) uint8 for the rows' captions and z_i (none for GLIDE), one generator each."""
    parts = []
    for start in range(0, len(rows.z_i), batch):
        part = rows.rows(slice(start, start + batch))
        generators = image_generators(seed, [(int(k), 0) for k in part.index], "speedrun")
        z_i = None if model.embedding_dim is None else getattr(part, model.embedding)
        parts.append(to_uint8(model.sample(part.tokens, z_i, generators)))
    return torch.cat(parts)


@torch.no_grad()
def validation_errors(model: DecoderModel, judged: Judged, count: int = 256) -> dict[str, float]:
    """1,000 times the mean squared error of the estimate of x0, true condition and no guidance, by timestep."""
    model = replace(model, sampler=replace(model.sampler, guidance_scale=1.0))
    x0 = to_float(judged.pictures[:count].permute(0, 2, 3, 1).numpy())
    part = judged.rows.rows(slice(count))
    denoise = model.denoiser_for(part.tokens, None if model.embedding_dim is None else part.z_i)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for timestep in TIMESTEPS:
        alpha_bar = model.objective.noise_schedule.alpha_bar[timestep].float()
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        t = torch.full((len(x0),), timestep, dtype=torch.int64)
        found[f"mse {timestep}"] = 1000 * float((denoise(x_t, t).x0 - x0).square().mean())
    return found


def _pictures(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def load_decoder(folder: Path, sampling: Mapping[str, object] | None = None) -> DecoderModel:
    """A trained decoder with other settings of sampling."""
    return load_model(folder, DecoderModel).model.overridden("decoder", sampling or {})
