"""What a stage's config must hold for training to make sense: settings in their ranges, sizes that the data have too.

All of it is looked at before a run folder is touched; each complaint is one line that names the setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import open_embeddings
from modules.errors import InputError
from modules.networks.decoder import DecoderNetwork
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.transformer import FeatureEmbedding, TextEncoder, TokenEmbedding
from modules.networks.upsampler import UpsamplerNetwork

MODEL = "model.init_args"
NETWORK = f"{MODEL}.network.init_args"
SHARES = ("drop_text", "drop_embedding", "corruption_share")
TOKENS = 2**22
"""How many tokens of a split are looked at for the largest: 32 MB of them; of more, rows spread over all."""


def check_settings(model: Any, data: Any) -> None:
    """Refuse settings with which training would go on and be of no use, or stumble when it is over.

    For runs that begin. One that goes on, or is evaluated, is left with what it was trained with.

    Raises:
        InputError: there is one.
    """
    trained = getattr(model, "model", None)
    for name in SHARES:
        _check_share(f"{MODEL}.{name}", getattr(trained, name, None))
    training = getattr(model, "training_config", None)  # Its ema_decay is looked at by torch.
    _check_share(f"{MODEL}.training.decay_share", getattr(training, "decay_share", None))
    _check_sampler(model)
    _check_attention(getattr(model, "network", None))
    network, side = getattr(model, "network", None), getattr(data, "image_size", None)
    if isinstance(network, DecoderNetwork) and side not in (None, network.unet.config.image_size):
        raise InputError(
            f"{NETWORK}.unet.image_size is {network.unet.config.image_size}, data.init_args.image_size is {side}: make "
            "them equal, for the first is what is drawn and the second what is trained on"
        )


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"{name} is {value:g}: it is a share, from 0 to 1")


def _check_sampler(model: Any) -> None:
    objective, sampler = (getattr(model, name, None) for name in ("objective", "sampler"))
    if objective is None or sampler is None:
        return
    try:
        _ = model.trajectory
    except ValueError as error:
        raise InputError(
            f"{MODEL}.sampler: {error} (steps {sampler.steps}, spacing {sampler.spacing}, objective.num_steps "
            f"{objective.num_steps}): ask for fewer steps, or for another spacing"
        ) from error
    if sampler.name == "ddpm" and sampler.variance == "learned" and not objective.learned_sigma:
        raise InputError(
            f"{MODEL}.sampler.variance is learned, {MODEL}.objective.learned_sigma is false: set that to true (and the "
            "network's), or take the variance fixed_small or fixed_large"
        )
    if sampler.needs_statistics and model.statistics_samples < 1:
        raise InputError(
            f"{MODEL}.statistics_samples is {model.statistics_samples}: the sampler {sampler.name} needs 1 or more"
        )


def _check_attention(network: Any) -> None:
    """Attention at resolutions that occur, of heads as wide as they are said to be."""
    config = getattr(getattr(network, "unet", None), "config", None)
    if config is None or not config.attention_resolutions:
        return
    widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
    sides = [config.image_size // config.patch_size // 2**level for level in range(len(widths))]
    absent = [side for side in config.attention_resolutions if side not in sides]
    if absent:
        raise InputError(
            f"{NETWORK}.unet.attention_resolutions has {', '.join(map(str, absent))}, but the network's feature maps "
            f"have sides of {', '.join(map(str, sides))} (image_size / patch_size, halved at every further "
            "channel_multiplier): name some of these"
        )
    attending = [w for w, side in zip(widths, sides, strict=True) if side in config.attention_resolutions]
    attending.append(widths[-1])  # in the middle
    head = config.head_channels
    wrong = next((width for width in attending if width > head and width % head), None)
    if wrong is not None:
        fit = next(d for d in range(head, 0, -1) if all(width % d == 0 for width in attending))
        raise InputError(
            f"{NETWORK}.unet.head_channels is {head}; it does not divide the {wrong} channels of an attention layer: "
            f"its heads would have {wrong // (wrong // head)}: take {fit}, or other channels"
        )


def check_data(model: Any, data: Any, splits: Sequence[str] = ("train", "val")) -> None:
    """Refuse a network and data of different sizes.

    Args:
        model, data: a stage and its data module.
        splits: those that will be read.

    Raises:
        InputError: they differ, or the embeddings are not there.
    """
    network = getattr(model, "network", None)
    _check_outputs(model, network)
    _check_text(network, data, splits)
    unet = getattr(network, "unet", None)
    if unet is None:
        return
    if isinstance(data, EmbeddingsDataModule):
        raise InputError(
            f"data.class_path: {type(data).__name__} holds embeddings alone, and {type(model).__name__} is trained on "
            "pictures: name a data module of pictures, such as datamodules.shapes.ShapesDataModule, and the folder as "
            "its data.init_args.embeddings"
        )
    side = getattr(data, "image_size", None)
    if side is not None:
        _check_side(network, side)
        if isinstance(network, UpsamplerNetwork):
            _check_crop(network, model.model.crop, side)


def _check_outputs(model: Any, network: Any) -> None:
    """A variance is learned by networks that have an output for it; the decoder asks by itself."""
    learned = getattr(getattr(model, "objective", None), "learned_sigma", None)
    if isinstance(network, DiffusionPriorNetwork) and learned:
        raise InputError(f"{MODEL}.objective.learned_sigma is true, a prior's network has no variance: set it to false")
    if isinstance(network, UpsamplerNetwork) and learned != network.learned_sigma:
        raise InputError(
            f"{NETWORK}.learned_sigma is {network.learned_sigma}, {MODEL}.objective.learned_sigma is {learned}: make "
            "them equal"
        )


class Captions(NamedTuple):
    """What the captions of the data are, as a network reads them.

    Attributes:
        length: tokens of each.
        largest: token that there is.
        dim: width of the embeddings beside them.
        features: width of the features of a token; None where there are none.
    """

    length: int
    largest: int
    dim: int
    features: int | None


def _check_text(network: Any, data: Any, splits: Sequence[str]) -> None:
    reader = next((x for x in (getattr(network, name, None) for name in ("text", "tokens")) if x is not None), None)
    if not isinstance(reader, (TextEncoder, TokenEmbedding, FeatureEmbedding)):
        return
    found = captions_of(data, splits)
    if found is None:
        return
    if network.embedding_dim not in (None, found.dim):
        raise InputError(
            f"{NETWORK}.embedding_dim is {network.embedding_dim}, the data's embeddings have {found.dim} dimensions: "
            "make them equal, or name other embeddings"
        )
    if reader.context_length != found.length:
        raise InputError(
            f"{NETWORK}.context_length is {reader.context_length}, the captions of the data's embeddings have "
            f"{found.length} tokens: set it to {found.length}, or name other embeddings"
        )
    if isinstance(reader, FeatureEmbedding):
        if found.features not in (None, reader.project.in_features):
            raise InputError(
                f"{NETWORK}.feature_dim is {reader.project.in_features}, the data's features of a token have "
                f"{found.features} dimensions: set it to that, or name other embeddings"
            )
        return
    size = (reader.embedding if isinstance(reader, TextEncoder) else reader).tokens.num_embeddings
    if size <= found.largest:
        raise InputError(
            f"{NETWORK}.vocab_size is {size}, the data's tokens go up to {found.largest}: set it to the size of the "
            f"tokeniser's vocabulary, {found.largest + 1} or more"
        )


def captions_of(data: Any, splits: Sequence[str]) -> Captions | None:
    """The captions of some splits that are filed with the data's embeddings; None for data without.

    Raises:
        InputError: the embeddings are not there, or damaged.
    """
    if isinstance(data, EmbeddingsDataModule) and data.embedding_dim is None:  # Of clip-retrieval: it says nothing.
        rows = data.dataset(splits[0])
        batch = rows[range(0, len(rows), -(-len(rows) // 1024))]
        return Captions(batch.tokens.shape[1], int(batch.tokens.max()), batch.z_i.shape[1], None)
    path = data.folder if isinstance(data, EmbeddingsDataModule) else getattr(data, "embeddings", None)
    if path is None:
        return None
    folder = open_embeddings(path)
    largest = 0
    for split in (split for split in splits if split in folder.info.sizes):
        count = folder.info.sizes[split]
        tokens = folder.rows(split).tokens
        stride = max(1, math.ceil(count * folder.info.context / TOKENS))
        largest = max(largest, int(np.max(tokens[range(0, count, stride)], initial=0)))
    return Captions(folder.info.context, largest, folder.info.dim, folder.info.features)


def _check_side(network: Any, side: int) -> None:
    multiple = network.unet.multiple
    if side % multiple:
        raise InputError(
            f"data.init_args.image_size is {side}; this U-Net takes multiples of {multiple} (patch_size x 2 for every "
            f"channel_multiplier but one): take {_nearest(side, multiple)}, or fewer {NETWORK}.unet.channel_multipliers"
        )
    factor = getattr(network, "factor", 1)
    if side % factor:
        raise InputError(
            f"{NETWORK}.factor is {factor}, which does not divide data.init_args.image_size, {side}: make the latter "
            f"{_nearest(side, math.lcm(factor, multiple))}, or take another factor"
        )


def _check_crop(network: UpsamplerNetwork, crop: float, side: int) -> None:
    if not 0 < crop <= 1:
        raise InputError(
            f"{MODEL}.crop is {crop:g}: it is the training window's share of the image's side, above 0 and at most 1; "
            "the paper's is 0.25"
        )
    window, multiple = round(side * crop), math.lcm(network.factor, network.unet.multiple)
    if window == 0 or window % multiple:
        raise InputError(
            f"{MODEL}.crop is {crop:g}, a window of {window} of the images' {side} pixels; it must be a multiple of "
            f"{multiple} (factor {network.factor}, the U-Net's {network.unet.multiple}): take "
            f"{_nearest(window, multiple) / side:g}"
        )


def _nearest(number: int, multiple: int) -> int:
    """The multiple next to a number, not 0."""
    return max(1, round(number / multiple)) * multiple
