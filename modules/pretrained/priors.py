"""Priors released without a decoder of unCLIP's kind: Kandinsky 2.1's and 2.2's, and ECLIPSE's."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from modules.errors import InputError
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork
from modules.pretrained import karlo
from modules.pretrained.reading import component, first_file, read_config
from modules.pretrained.shapes import network_of, prior_of_config
from modules.pretrained.stages import ImportedStage, Stages, stage
from modules.pretrained.transformer_keys import prior_entries

KANDINSKY = (
    "a folder of diffusers' layout (https://huggingface.co/kandinsky-community/kandinsky-2-2-prior or -2-1-prior: "
    "prior, text_encoder, image_encoder), or one with prior_fp16.ckpt and ViT-L-14_stats.th (Kandinsky 2.1's own)"
)
ECLIPSE = (
    "a folder with the prior's config.json and weights (https://huggingface.co/ECLIPSE-Community/ECLIPSE_Karlo_Prior "
    "or ECLIPSE_KandinskyV22_Prior)"
)
KANDINSKY_LIMIT = 10.0
"""The range of clipping in Kandinsky's schedulers."""


def kandinsky(folder: Path) -> Stages:
    """The prior, of the same class as Karlo's; its scheduler clips at 10.

    Raises:
        InputError: the folder has none; or, from the function, it cannot be read.
    """
    if any((place / "config.json").is_file() for place in (folder / "prior", folder)):
        return {"diffusion_prior": partial(karlo.prior, folder, KANDINSKY_LIMIT)}
    if first_file(folder, karlo.ORIGINAL["diffusion_prior"]) is not None:
        return {"diffusion_prior": partial(karlo.original_prior, folder)}
    raise InputError(f"{folder} holds no prior: give {KANDINSKY}")


def eclipse(folder: Path) -> Stages:
    """ECLIPSE's prior: Karlo's without a timestep.

    Raises:
        InputError: the folder has none; or, from the function, it cannot be read.
    """
    place = folder / "prior" if (folder / "prior").is_dir() else folder
    if not (place / "config.json").is_file():
        raise InputError(f"{folder} holds no prior: give {ECLIPSE}")
    return {"eclipse_prior": partial(_eclipse, place)}


def _eclipse(place: Path) -> ImportedStage:
    settings = prior_of_config(read_config(place / "config.json"), str(place / "config.json"), timestep=False)
    settings["conditioning"] = {"padding_mask": True, "raw": True}
    # Their class has mean and deviation from diffusers', and uses neither: its output is z_i itself.
    tensors = {name: x for name, x in component(place).items() if name not in ("clip_mean", "clip_std")}
    network = network_of(EclipsePriorNetwork, settings, len(tensors))
    beside = {"contrastive_weight": 0.2, "temperature": 0.01}
    return stage(network, settings, beside, prior_entries(network, False), tensors, str(place))
