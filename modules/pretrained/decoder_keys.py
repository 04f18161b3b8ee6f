"""The keys of whole decoders and upsamplers: a U-Net with Karlo's text projection or with GLIDE's text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modules.networks.decoder import CLIP_TOKENS, DecoderNetwork
from modules.networks.transformer import TextEncoder
from modules.networks.unet import UNet
from modules.networks.upsampler import UpsamplerNetwork
from modules.pretrained.key_map import Entry, layer, prefixed, same
from modules.pretrained.transformer_keys import glide_text_entries
from modules.pretrained.unet_keys import unet_entries

PROJECTION = {
    "embedding_proj": ("text_feat_proj", "text.z_t"),
    "clip_image_embeddings_project_to_time_embeddings": ("clip_emb", "clip_to_emb.0"),
    "encoder_hidden_states_proj": ("text_seq_proj.0", "text.project"),
    "text_encoder_hidden_states_norm": ("text_seq_proj.1", "text.norm"),
}
"""diffusers' name in UnCLIPTextProjModel -> Karlo's, ours."""


def karlo_decoder_entries(network: DecoderNetwork, original: bool) -> list[Entry]:
    """Karlo's decoder. diffusers' names begin with "decoder." or "text_proj.", the folder that they lie in."""
    assert isinstance(network.unet, UNet)
    theirs = ("", "") if original else ("decoder.", "text_proj.")
    entries = prefixed(unet_entries(network.unet, original), theirs[0], "unet.")
    for diffusers, (own, ours) in PROJECTION.items():
        entries += layer(theirs[1] + (own if original else diffusers), ours)
    null = "cf_param" if original else "learned_classifier_free_guidance_embeddings"
    entries.append(same(theirs[1] + null, "clip_features.null"))
    tokens = theirs[1] + ("clip_tok_proj" if original else "clip_extra_context_tokens_proj")
    return entries + [_permuted(f"{tokens}.{part}", f"clip_to_tokens.{part}") for part in ("weight", "bias")]


def _permuted(theirs: str, ours: str) -> Entry:
    """Row c x 4 + j of theirs is entry c of token j; ours has it in row j x width + c."""

    def swap(x: Tensor, first: int) -> Tensor:
        return x.unflatten(0, (first, -1)).transpose(0, 1).flatten(0, 1)

    def read(found: Sequence[Tensor]) -> list[Tensor]:
        return [swap(found[0], len(found[0]) // CLIP_TOKENS)]

    return Entry((theirs,), (ours,), read, lambda found: [swap(found[0], CLIP_TOKENS)])


def karlo_upsampler_entries(network: UpsamplerNetwork, original: bool) -> list[Entry]:
    """Karlo's super-resolution networks; the names begin with the folder's, or with the original's prefix."""
    assert isinstance(network.unet, UNet) and isinstance(network.last_unet, UNet)
    first, last = ("model_first_steps.", "model_last_step.") if original else ("super_res_first.", "super_res_last.")
    entries = prefixed(unet_entries(network.unet, original), first, "unet.")
    return entries + prefixed(unet_entries(network.last_unet, original), last, "last_unet.")


def glide_entries(network: DecoderNetwork | UpsamplerNetwork) -> list[Entry]:
    """GLIDE's base model or its upsampler: U-Net and text encoder in one file."""
    assert isinstance(network.unet, UNet) and isinstance(network.text, TextEncoder)
    entries = prefixed(unet_entries(network.unet, original=True), "", "unet.")
    entries += prefixed(glide_text_entries(network.text), "", "text.")
    return entries + layer("transformer_proj", "text_to_emb")
