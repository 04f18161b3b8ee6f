"""The sizes of the data that a model is trained on, and what every model that reads captions needs of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from modules.errors import InputError

MODEL = "model.init_args"
"""Where a YAML has a model's settings, for messages."""

NETWORK = f"{MODEL}.network.init_args"
"""Where a YAML has those of its network."""


class CaptionSizes(NamedTuple):
    """The captions that are filed with the data's embeddings.

    Attributes:
        length: tokens of each.
        largest: the largest token that occurs.
        dim: width of the embeddings beside them.
        features: width of the features of a token; None where there are none.
        raw: whether the embeddings are a CLIP's own, not of unit norm; None where it is not known.
    """

    length: int
    largest: int
    dim: int
    features: int | None
    raw: bool | None = None


def _no_captions() -> CaptionSizes | None:
    return None


def _no_pairs() -> int | None:
    return None


@dataclass(frozen=True)
class DataSizes:
    """The sizes of a data module's batches.

    Attributes:
        image_size: side of the pictures in pixels; None where it is not known, or there are none.
        captions: looks the captions up, for which the embeddings' folder is opened; None for data without embeddings.
        batch: samples of a batch over all devices; None where it is not known.
        pairs: counts the training samples; None where they are not known.
    """

    image_size: int | None = None
    captions: Callable[[], CaptionSizes | None] = _no_captions
    batch: int | None = None
    pairs: Callable[[], int | None] = _no_pairs


class CaptionReader(Protocol):
    """The part of a network that reads captions.

    Attributes:
        context_length: tokens of a caption.
        vocab_size: how many different tokens it knows; None if it reads features of the tokens.
        feature_dim: width of these features; None if it reads the tokens themselves.
    """

    @property
    def context_length(self) -> int: ...
    @property
    def vocab_size(self) -> int | None: ...
    @property
    def feature_dim(self) -> int | None: ...


def check_share(name: str, value: float) -> None:
    """Refuse a share that does not lie between 0 and 1.

    Raises:
        InputError: it is not in 0 to 1; names the setting.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{MODEL}.{name} is {value:g}: it is a share, from 0 to 1")


RAW, UNIT = "a CLIP's own (raw), not of unit norm", "of unit norm"


def check_raw(raw: bool | None, setting: str, found: CaptionSizes) -> None:
    """Refuse a network that takes embeddings of the other kind than the data's: raw ones, or those of unit norm.

    Args:
        raw: whether the network takes raw ones; None if it takes none, or any.
        setting: the YAML's key for it; "" for a network that has no such setting.
        found: the data's captions.

    Raises:
        InputError: they differ.
    """
    if raw is None or found.raw is None or raw == found.raw:
        return
    theirs, ours = (RAW if kind else UNIT for kind in (found.raw, raw))
    way = f"set {NETWORK}.{setting} to {str(found.raw).lower()}, or " if setting else ""
    raise InputError(
        f"the data's embeddings are {theirs}, and this stage takes embeddings that are {ours}: {way}name embeddings of "
        'the other kind (they are raw if the open_clip_config.json of their CLIP says "embeddings": "raw")'
    )


def check_captions(reader: CaptionReader, embedding_dim: int | None, found: CaptionSizes) -> None:
    """Refuse a network that reads other captions than the data hold.

    Args:
        reader: of the network.
        embedding_dim: width of the embeddings that the network takes; None if it takes none.
        found: the data's captions.

    Raises:
        InputError: lengths, widths or vocabularies differ.
    """
    if embedding_dim not in (None, found.dim):
        raise InputError(
            f"{NETWORK}.embedding_dim is {embedding_dim}, the data's embeddings have {found.dim} dimensions: "
            "make them equal, or name other embeddings"
        )
    if reader.context_length != found.length:
        raise InputError(
            f"{NETWORK}.context_length is {reader.context_length}, the captions of the data's embeddings have "
            f"{found.length} tokens: set it to {found.length}, or name other embeddings"
        )
    if reader.feature_dim is not None and found.features not in (None, reader.feature_dim):
        raise InputError(
            f"{NETWORK}.feature_dim is {reader.feature_dim}, the data's features of a token have "
            f"{found.features} dimensions: set it to that, or name other embeddings"
        )
    if reader.vocab_size is not None and reader.vocab_size <= found.largest:
        raise InputError(
            f"{NETWORK}.vocab_size is {reader.vocab_size}, the data's tokens go up to {found.largest}: set it to the "
            f"size of the tokeniser's vocabulary, {found.largest + 1} or more"
        )
