"""A model says itself which data and settings go with it: sizes at the edge pass, the next ones are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modules.errors import InputError
from modules.manipulations import Walk
from modules.models.configs import Objective, SamplerConfig
from modules.models.data_sizes import CaptionSizes, DataSizes
from modules.models.decoder import DecoderModel
from modules.models.image_model import nearest
from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.priors.linear_prior import LinearPriorModel
from modules.models.upsampler import UpsamplerModel
from modules.networks.embedding_pathway import EmbeddingPathway
from modules.networks.priors.prior_conditioning import PriorConditioning

NETWORK = "model.init_args.network.init_args"


@pytest.fixture
def model(tiny):
    """A stage's model, its network's arguments changed."""
    kinds = {"diffusion_prior": DiffusionPriorModel, "decoder": DecoderModel, "glide": DecoderModel}
    kinds |= {"upsampler": UpsamplerModel, "linear_prior": LinearPriorModel}

    def make(stage, **changes):
        network = tiny.make_network(stage, **changes)
        if stage == "ar_prior":
            return ARPriorModel(network, EmbeddingCodec(tiny.DIM, **tiny.CODES))
        return kinds[stage](network)

    return make


@pytest.fixture
def captions(tiny):
    """Captions that fit every tiny network, and are as long and as rich in words as may be."""
    return CaptionSizes(tiny.CONTEXT, tiny.VOCABULARY_SIZE - 1, tiny.DIM, None)


def sizes(captions, side=None):
    return DataSizes(side, lambda: captions)


def refusal(check, *arguments):
    with pytest.raises(InputError) as error:
        check(*arguments)
    return str(error.value)


READERS = ["ar_prior", "diffusion_prior", "decoder", "glide"]


@pytest.mark.parametrize("stage", READERS)
def test_captions_of_other_sizes(model, captions, stage):
    made = model(stage)
    made.check_data(sizes(captions))
    made.check_data(sizes(None))  # Data without embeddings have no captions that could differ.
    length, largest = captions.length, captions.largest
    assert refusal(made.check_data, sizes(captions._replace(length=length + 1))) == (
        f"{NETWORK}.context_length is {length}, the captions of the data's embeddings have {length + 1} tokens: "
        f"set it to {length + 1}, or name other embeddings"
    )
    assert refusal(made.check_data, sizes(captions._replace(largest=largest + 1))) == (
        f"{NETWORK}.vocab_size is {largest + 1}, the data's tokens go up to {largest + 1}: set it to the size of the "
        f"tokeniser's vocabulary, {largest + 2} or more"
    )


@pytest.mark.parametrize("stage", ["ar_prior", "diffusion_prior", "decoder"])
def test_embeddings_of_another_width(model, captions, stage):
    wider = sizes(captions._replace(dim=captions.dim + 1))
    assert refusal(model(stage).check_data, wider) == (
        f"{NETWORK}.embedding_dim is {captions.dim}, the data's embeddings have {captions.dim + 1} dimensions: make "
        "them equal, or name other embeddings"
    )
    model("glide").check_data(wider)  # It takes none.


def test_features_of_another_width(model, captions):
    """A prior that reads features has no vocabulary: any token will do."""
    made = model("diffusion_prior", feature_dim=6)
    made.check_data(sizes(captions._replace(features=6, largest=10**6)))
    assert refusal(made.check_data, sizes(captions._replace(features=7))) == (
        f"{NETWORK}.feature_dim is 6, the data's features of a token have 7 dimensions: set it to that, or name other "
        "embeddings"
    )


@pytest.mark.parametrize("stage", ["upsampler"])
def test_captions_that_nobody_reads_are_not_looked_up(model, stage):
    def looked_up():
        raise AssertionError

    model(stage).check_data(DataSizes(None, looked_up))


def test_sides_of_a_u_net(model):
    """Two levels of patches of the tiny U-Net: multiples of 4."""
    made = model("decoder")
    assert made.unet.multiple == 4
    for side in (12, 16, None):
        made.check_data(DataSizes(side))
    assert refusal(made.check_data, DataSizes(18)) == (
        "data.init_args.image_size is 18; this U-Net takes multiples of 4 (patch_size x 2 for every channel_multiplier "
        f"but one): take 16, or fewer {NETWORK}.unet.channel_multipliers"
    )
    made.check_settings(DataSizes(16))
    assert "unet.image_size is 16, data.init_args.image_size is 12: " in refusal(made.check_settings, DataSizes(12))


def test_factor_and_crop_of_an_upsampler(model):
    """A window of a quarter of 48 pixels is 12, which factor 3 and the U-Net's 4 divide."""
    made = model("upsampler", factor=3)
    made.check_data(DataSizes(48))
    line = refusal(made.check_data, DataSizes(32))
    assert line.startswith(f"{NETWORK}.factor is 3, which does not divide") and "make the latter 36, or" in line
    window = refusal(made.check_data, DataSizes(24))
    assert "crop is 0.25, a window of 6 of the images' 24 pixels; it must be a multiple of 12" in window
    assert window.endswith("take 0.5") and nearest(1, 4, 3) == 12
    assert refusal(replace(made, crop=0.0).check_data, DataSizes(48)).startswith("model.init_args.crop is 0: ")


def test_a_variance_needs_an_output(model):
    learned = Objective(learned_sigma=True)
    for stage, words in (
        ("diffusion_prior", "a DiffusionPriorNetwork has no variance: set it to false"),
        ("upsampler", "make them equal"),
        ("decoder", "make them equal"),
    ):
        assert words in refusal(replace(model(stage), objective=learned).check)


def test_a_variance_needs_an_objective(model, tiny):
    for stage in ("upsampler", "decoder"):
        network = tiny.make_network(stage, learned_sigma=True)
        assert "make them equal" in refusal(replace(model(stage), network=network).check)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("ar_prior", "drop_text"),
        ("diffusion_prior", "drop_text"),
        ("decoder", "drop_text"),
        ("decoder", "drop_embedding"),
        ("upsampler", "corruption_share"),
    ],
)
def test_shares(model, stage, name):
    made = model(stage)
    for value in (0.0, 1.0):
        replace(made, **{name: value}).check_settings(DataSizes())
    line = refusal(replace(made, **{name: 1.25}).check_settings, DataSizes())
    assert line == f"model.init_args.{name} is 1.25: it is a share, from 0 to 1"


def test_samplers(model):
    made = replace(model("decoder"), sampler=SamplerConfig(name="ddpm", variance="learned"))
    assert refusal(made.check_settings, DataSizes()).startswith("model.init_args.sampler.variance is learned, ")
    long = replace(made, sampler=SamplerConfig(steps=1001))
    assert refusal(long.check_settings, DataSizes()).startswith("model.init_args.sampler: cannot take 1001 steps")


def spent(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("stage", ["diffusion_prior", "decoder", "upsampler"])
def test_the_parts_of_sampling_are_what_sampling_evaluates(model, captions, stage, scale):
    """One sample's FLOPs, counted while it is drawn; with guidance, the dropped half is as dear as the other."""
    if stage == "upsampler" and scale != 1:
        pytest.skip("upsamplers have no guidance")
    sampler = SamplerConfig(name="ddim", steps=3, guidance_scale=scale, threshold=None)
    made = replace(model(stage), sampler=sampler)
    made.network.eval()
    batch = made.example_batch(1)
    own = [torch.Generator().manual_seed(0)]
    draw = {
        "diffusion_prior": lambda: made.sample(batch.captions, own),
        "decoder": lambda: made.sample(*made.conditions(batch), own),
        "upsampler": lambda: made.sample(torch.zeros(1, 3, made.image_size // 2, made.image_size // 2), own),
    }[stage]
    with torch.no_grad():
        assert sum(times * spent(run) for times, run in made.sampling_parts()) == spent(draw)


@pytest.mark.parametrize("name", ["guidance_scale", "text_guidance_scale"])
def test_guidance_is_within_bounds(name):
    for scale in (-100, -3.0, 0, 100):
        SamplerConfig(**{name: scale})
    for scale in (1e30, 100.5, -101, float("nan"), float("inf"), "2"):
        with pytest.raises(InputError, match=rf"^{name} must be (null or )?a number from -100 to 100, found"):
            SamplerConfig(**{name: scale})


def test_guidance_of_the_other_kinds_is_within_bounds(model):
    with pytest.raises(InputError, match=r"^guidance_scale must be a number from -100 to 100, found 1e"):
        replace(model("ar_prior"), guidance_scale=1e30).check()
    with pytest.raises(InputError, match=r"^guidance_scale must be a number from -100 to 100, found nan"):
        Walk(guidance_scale=float("nan"))
    with pytest.raises(InputError, match=r"^clip_guidance_scale must be a number from 0 to 100,000, found 1e"):
        SamplerConfig(clip_guidance_scale=1e30)


RAW = "a CLIP's own (raw), not of unit norm"


@pytest.mark.parametrize(
    ("stage", "setting"),
    [("diffusion_prior", "conditioning.raw"), ("decoder", "pathway.raw"), ("linear_prior", ""), ("ar_prior", "")],
)
def test_raw_embeddings_for_a_stage_of_unit_ones(model, captions, stage, setting):
    made = model(stage)
    made.check_data(sizes(captions._replace(raw=False)))
    way = f"set {NETWORK}.{setting} to true, or name" if setting else "of unit norm: name"
    said = refusal(made.check_data, sizes(captions._replace(raw=True)))
    assert said.startswith(f"the data's embeddings are {RAW}, and this stage takes") and way in said
    model("glide").check_data(sizes(captions._replace(raw=True)))  # It takes none.


def test_unit_embeddings_for_a_stage_of_raw_ones(model, captions):
    own = model("diffusion_prior", conditioning=PriorConditioning(raw=True))
    own.check_data(sizes(captions._replace(raw=True)))
    assert f"{NETWORK}.conditioning.raw to false" in refusal(own.check_data, sizes(captions._replace(raw=False)))
    whitened = model("decoder", pathway=EmbeddingPathway(whiten=True))
    for raw in (True, False, None):
        whitened.check_data(sizes(captions._replace(raw=raw)))  # What is whitened may have any scale.
