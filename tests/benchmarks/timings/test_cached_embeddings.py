"""Cached embeddings against a CLIP in the loop: both sides train the same prior on the same pairs."""

from types import SimpleNamespace

import open_clip
import torch

from benchmarks.timings import cached_embeddings
from benchmarks.timings.cases import CASES
from benchmarks.timings.setting import Bench
from modules.diffusion_prior import DiffusionPrior


def test_both_sides_train_the_prior_on_the_same_pairs_and_one_embeds_them(tiny, monkeypatch):
    embedded, seen = [], []

    class Watched(open_clip.CLIP):
        def encode_image(self, images, normalize=False):
            embedded.append(len(images))
            return super().encode_image(images, normalize)

    clip = Watched(**tiny.CLIP)
    cut = SimpleNamespace(
        create_model=lambda name: clip,
        get_tokenizer=lambda name: lambda texts: torch.ones(len(texts), 20, dtype=torch.int64),
    )
    monkeypatch.setattr(cached_embeddings, "open_clip", cut)
    monkeypatch.setattr(cached_embeddings, "PAIRS", 16)
    monkeypatch.setattr(cached_embeddings, "PRIOR", {"width": 16, "depth": 1, "heads": 2})
    monkeypatch.setattr(cached_embeddings, "CLIPS", {"tiny": 4})
    loss = DiffusionPrior.training_loss

    def watched(stage, batch, generator):
        seen.append(batch.index.tolist())
        return loss(stage, batch, generator)

    monkeypatch.setattr(DiffusionPrior, "training_loss", watched)
    (result,) = CASES["prior_from_cache"](Bench(torch.device("cpu"), pairs=4))
    assert (result.name, result.peer) == ("prior_from_cache", "tiny in every step")
    assert embedded == [4, 4, 4]  # A warm-up and two pairs, on one side only.
    assert seen[0::2] == seen[1::2]
    assert len(seen) == 6
