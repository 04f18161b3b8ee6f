"""Values that a stage takes from its data before the first step: the scale of z_i, and the empty caption."""

from __future__ import annotations

from typing import Any

from modules.errors import InputError
from modules.networks.frozen_text import EmptyCaption, real_tokens
from modules.networks.priors.prior_conditioning import Standardisation
from modules.training.stage import Stage
from modules.training.whitening import spread_embeddings


def fit_conditioning(stage: Stage[Any]) -> None:
    """Fit every standardisation, and set every empty caption, of a stage that begins: the trained network's, and the
    average's.

    A stage that starts from other weights has what these were trained with.

    Args:
        stage: what holds them; no data are read if it holds none.

    Raises:
        InputError: the embeddings' folder has no empty caption, or one that the network does not take.
    """
    if stage.global_step:
        return
    data = stage.trainer.datamodule  # type: ignore[attr-defined]
    scales = [module for module in stage.modules() if isinstance(module, Standardisation)]
    if scales and not any("standardisation." in name for name in stage.initial):
        z = spread_embeddings(data.dataset("train"), "z_i")
        for scale in scales:
            scale.fit(z.to(stage.device))
    nulls = [module for module in stage.modules() if isinstance(module, EmptyCaption)]
    if nulls and not any("empty." in name for name in stage.initial):
        set_empty_captions(nulls, data)


def set_empty_captions(nulls: list[EmptyCaption], data: Any) -> None:
    """Give networks the caption "" as the data's CLIP gives it.

    Args:
        nulls: of the networks.
        data: a data module with `empty_caption`.

    Raises:
        InputError: see `fit_conditioning`.
    """
    if not hasattr(data, "empty_caption"):
        raise InputError(
            f"{type(data).__name__} has no embedding of the empty caption, which the network reads in place of a "
            "dropped caption: train on embeddings of `unclip embed`, or take conditioning.null: learned"
        )
    found = data.empty_caption()
    for null in nulls:
        text = found.tokens if null.text.ndim == 1 else found.features
        if text is None:
            raise InputError(
                "the network reads the CLIP's features of every token, and the embeddings hold none: make them with "
                "`unclip embed --token-features`"
            )
        null.set(text[0], found.z_t[0], real_tokens(found.tokens)[0])
