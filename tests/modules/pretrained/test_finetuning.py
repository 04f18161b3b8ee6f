"""Fine-tuning released weights: a step's loss is that of diffusers' networks, and the YAMLs are of the weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent))

import released

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.images.degradations import random_crop
from modules.models.base import Model
from modules.models.exports import build
from modules.networks.frozen_text import real_tokens
from modules.pretrained import karlo
from modules.pretrained.shapes import prior_of_config, unet_of_config
from modules.pretrained.stages import ImportedStage
from modules.training.initial import MEANING, changes_of
from modules.untrusted.allowed import class_named

B, LENGTH, DIM, WIDTH = 6, 77, 16, 24
SEED = 1
"""Of the losses' draws, with which some captions are dropped and some are not."""

AT_ZERO = 110
"""Of the upsampler's, which draws a timestep of 0."""

NULL = B - 1
"""The row of the captions that stands for the empty one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of diffusers' layout, of small random networks."""
    from diffusers import PriorTransformer, UNet2DConditionModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=32, num_layers=2, embedding_dim=DIM, num_embeddings=LENGTH
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=WIDTH,
        class_embed_type="identity",
        attention_head_dim=32,
        resnet_time_scale_shift="scale_shift",
    )
    text = UnCLIPTextProjModel(
        clip_extra_context_tokens=4, clip_embeddings_dim=DIM, time_embed_dim=128, cross_attention_dim=WIDTH
    )
    with torch.no_grad():
        prior.clip_mean.normal_()
        prior.clip_std.uniform_(0.5, 1.5)
        text.learned_classifier_free_guidance_embeddings.normal_()
    place = tmp_path_factory.mktemp("karlo")
    for name, model in (("prior", prior), ("decoder", unet), ("text_proj", text)):
        model.eval().save_pretrained(place / name)
    return place, prior, unet, text


@pytest.fixture(scope="module")
def pairs():
    """Raw embeddings and features of B captions of different lengths, the last of which is the empty one."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    lengths = torch.tensor([3, 9, 77, 20, 5, 2])
    tokens = torch.where(torch.arange(LENGTH) < lengths[:, None], 7, 0)
    mask = real_tokens(tokens)
    features = normal(B, LENGTH, DIM)
    return EmbeddingBatch(normal(B, DIM), normal(B, DIM), tokens, torch.arange(B), features), mask


def model_of(stage: ImportedStage) -> Model:
    """The model of an imported stage, with its weights, for training."""
    found = build(class_named(stage.model, Model), stage.settings)
    missing = found.network.load_state_dict(stage.tensors, strict=False)
    assert not missing.unexpected_keys and all("empty." in name for name in missing.missing_keys)
    return found


def dropped(rows: Tensor, keep: Tensor) -> Tensor:
    """Rows with the empty caption's where keep (B,) is False."""
    return torch.where(keep.view(-1, *[1] * (rows.ndim - 1)), rows, rows[NULL])


def test_the_priors_loss_is_that_of_diffusers_network(folder, pairs):
    from diffusers import UnCLIPScheduler

    place, theirs, *_ = folder
    batch, mask = pairs
    model = model_of(karlo.prior(place))
    model.network.empty.set(batch.features[NULL], batch.z_t[NULL], mask[NULL])
    ours = model.loss(batch, torch.Generator().manual_seed(SEED))
    ours.backward()

    generator = torch.Generator().manual_seed(SEED)
    x0 = ((batch.z_i - theirs.clip_mean) / theirs.clip_std).detach()
    t, noise, _ = model.objective.draw(x0, generator)
    keep = torch.rand(B, generator=generator) >= 0.2
    assert 0 < int(keep.sum()) < B  # Both halves are looked at.
    x_t = UnCLIPScheduler(1000).add_noise(x0, noise, t)
    found = theirs(
        x_t,
        t,
        proj_embedding=dropped(batch.z_t, keep),
        encoder_hidden_states=dropped(batch.features, keep),
        attention_mask=dropped(mask, keep),
    ).predicted_image_embedding
    wanted = F.mse_loss(found, x0)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=0)
    wanted.backward()  # So the first step is the same, too.
    torch.testing.assert_close(
        model.network.out.weight.grad, theirs.proj_to_clip_embeddings.weight.grad, rtol=1e-3, atol=1e-6
    )


def test_the_decoders_loss_is_that_of_diffusers_networks(folder, pairs):
    from diffusers import UnCLIPScheduler

    place, _, unet, text = folder
    batch, mask = pairs
    model = model_of(karlo.decoder(place))
    model.network.text.empty.set(batch.features[NULL], batch.z_t[NULL], mask[NULL])
    images = torch.rand(B, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    ours = model.loss(ImageTextBatch(images, [""] * B, batch.index, None, batch), torch.Generator().manual_seed(SEED))

    generator = torch.Generator().manual_seed(SEED)
    t, noise, _ = model.objective.draw(images, generator)
    keep_text = torch.rand(B, generator=generator) >= 0.3
    keep_z_i = torch.rand(B, generator=generator) >= 0.1
    assert all(0 < int(keep.sum()) < B for keep in (keep_text, keep_z_i))
    z_i = torch.where(keep_z_i[:, None], batch.z_i, text.learned_classifier_free_guidance_embeddings)
    hidden, added = text(
        image_embeddings=z_i,
        prompt_embeds=dropped(batch.z_t, keep_text),
        text_encoder_hidden_states=dropped(batch.features, keep_text),
        do_classifier_free_guidance=False,
    )
    seen = F.pad(dropped(mask, keep_text), (4, 0), value=True)
    x_t = UnCLIPScheduler(1000).add_noise(images, noise, t)
    output = unet(sample=x_t, timestep=t, encoder_hidden_states=hidden, class_labels=added, attention_mask=seen).sample
    wanted = model.objective.loss(output, images, noise, t).mean()
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=0)


def test_the_upsamplers_loss_is_that_of_diffusers_networks(folder):
    """Some of the batch are at t = 0, where the second network answers."""
    from diffusers import UnCLIPScheduler, UNet2DModel

    place, size = folder[0], released.LARGE
    for seed, name in enumerate(("super_res_first", "super_res_last")):
        released.super_res(seed).eval().save_pretrained(place / name)
    first, last = (UNet2DModel.from_pretrained(place / f"super_res_{name}").eval() for name in ("first", "last"))
    model = replace(model_of(karlo.upsampler(place)), corruption="none", crop=0.5)
    images = torch.rand(B, 3, size, size, generator=torch.Generator().manual_seed(4)) * 2 - 1
    ours = model.loss(ImageTextBatch(images, [""] * B, torch.arange(B)), torch.Generator().manual_seed(AT_ZERO))

    generator = torch.Generator().manual_seed(AT_ZERO)
    x0 = random_crop(images, size // 2, model.network.factor, generator)
    low = F.interpolate(x0, scale_factor=1 / model.network.factor, mode="bicubic", antialias=True).clamp(-1, 1)
    enlarged = F.interpolate(low, size=x0.shape[2:], mode="bicubic", antialias=True)
    t, noise, _ = model.objective.draw(x0, generator)
    assert 0 < int((t == 0).sum()) < B
    given = torch.cat([UnCLIPScheduler(1000).add_noise(x0, noise, t), enlarged], dim=1)
    found = torch.where((t == 0)[:, None, None, None], last(given, t).sample, first(given, t).sample)
    torch.testing.assert_close(ours, F.mse_loss(found, noise), rtol=1e-5, atol=0)


CONFIGS = {
    "diffusion_prior": {
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "num_layers": 20,
        "embedding_dim": 768,
        "num_embeddings": 77,
        "additional_embeddings": 4,
        "dropout": 0.0,
    },
    "decoder": {
        "sample_size": 64,
        "block_out_channels": [320, 640, 960, 1280],
        "layers_per_block": 3,
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
    },
    "upsampler": {
        "sample_size": 256,
        "block_out_channels": [320, 640, 960, 1280],
        "layers_per_block": 3,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
        "resnet_time_scale_shift": "default",
    },
}
"""Of kakaobrain/karlo-v1-alpha."""


@pytest.mark.parametrize("name", CONFIGS)
def test_the_yamls_are_of_the_released_configs(name):
    config = CONFIGS[name]
    if name == "diffusion_prior":
        known = prior_of_config(config, name)
    else:
        known = {"unet": unet_of_config(config, name, config["sample_size"])}
    content = yaml.safe_load(Path(f"experiments/karlo/{name}.yaml").read_text())
    ours = content["model"]["init_args"]["network"]["init_args"]
    assert list(changes_of(known, ours, "network", MEANING["network"])) == []
    assert known.keys() <= ours.keys() and ours.get("conditioning") == known.get("conditioning")
    assert content["init_from"].endswith(f"/{name}")
