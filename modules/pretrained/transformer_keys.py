"""The keys of Transformers: priors of Karlo's kind, in diffusers' layout and their own, and GLIDE's text encoder."""

from __future__ import annotations

import torch

from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.transformer import TextEncoder, Transformer
from modules.pretrained.key_map import Entry, by_head, layer, prefixed, reshaped, same, stacked


def prior_entries(network: DiffusionPriorNetwork, original: bool) -> list[Entry]:
    """A prior's tensors: `original` for Karlo's and Kandinsky's own files, otherwise diffusers' PriorTransformer."""
    names = ORIGINAL if original else DIFFUSERS
    width, dim = network.transformer.width, network.embedding_dim
    entries = [entry for theirs, ours in names.items() for entry in layer(theirs, ours)]
    if network.timestep:
        times = ("time_embed.0", "time_embed.2") if original else ("time_embedding.linear_1", "time_embedding.linear_2")
        entries += [*layer(times[0], "time.first"), *layer(times[1], "time.second")]
    entries += [_positions(network, width)]
    entries += [reshaped("prd_emb" if original else "prd_embedding", "query", (1, 1, width), (width,))]
    if network.standardisation is not None:
        pairs = (("clip_mean", "mean"), ("clip_std", "std"))
        entries += [reshaped(theirs, f"standardisation.{ours}", (1, dim), (dim,)) for theirs, ours in pairs]
    blocks = (original_blocks if original else diffusers_blocks)(network.transformer)
    return entries + prefixed(blocks, "", "transformer.")


DIFFUSERS = {
    "encoder_hidden_states_proj": "tokens.project",
    "embedding_proj": "z_t",
    "proj_in": "z_i",
    "norm_out": "transformer.norm",
    "proj_to_clip_embeddings": "out",
}
ORIGINAL = {
    "text_enc_proj": "tokens.project",
    "text_emb_proj": "z_t",
    "clip_img_proj": "z_i",
    "final_ln": "transformer.norm",
    "out_proj": "out",
}


def _positions(network: DiffusionPriorNetwork, width: int) -> Entry:
    length = network.tokens.context_length
    return Entry(
        ("positional_embedding",),
        ("tokens.positions", "positions"),
        lambda found: [found[0].reshape(-1, width)[:length], found[0].reshape(-1, width)[length:]],
        lambda found: [torch.cat(list(found))[None]],
    )


def diffusers_blocks(transformer: Transformer) -> list[Entry]:
    """The blocks of diffusers' PriorTransformer; ours without a prefix."""
    entries = []
    for number in range(len(transformer.blocks)):
        theirs, ours = f"transformer_blocks.{number}", f"blocks.{number}"
        names = {"norm1": "norm_1", "norm3": "norm_2", "attn1.to_out.0": "out"}
        names |= {"ff.net.0.proj": "mlp_in", "ff.net.2": "mlp_out"}
        entries += [e for their, our in names.items() for e in layer(f"{theirs}.{their}", f"{ours}.{our}")]
        for part in ("weight", "bias"):
            parts = [f"{theirs}.attn1.to_{name}.{part}" for name in "qkv"]
            entries.append(stacked(parts, f"{ours}.qkv.{part}"))
    return entries


def original_blocks(transformer: Transformer) -> list[Entry]:
    """The blocks of Karlo's own Transformer and of GLIDE's: rows of q, k and v in chunks of one head."""
    entries = []
    for number in range(len(transformer.blocks)):
        theirs, ours = f"transformer.resblocks.{number}", f"blocks.{number}"
        names = {"ln_1": "norm_1", "ln_2": "norm_2", "attn.c_proj": "out", "mlp.c_fc": "mlp_in"}
        names |= {"mlp.c_proj": "mlp_out"}
        entries += [e for their, our in names.items() for e in layer(f"{theirs}.{their}", f"{ours}.{our}")]
        for part in ("weight", "bias"):
            entries.append(by_head(f"{theirs}.attn.c_qkv.{part}", f"{ours}.qkv.{part}", transformer.heads, 3))
    return entries


def glide_text_entries(text: TextEncoder) -> list[Entry]:
    """GLIDE's text encoder; ours without a prefix."""
    tables = {
        "token_embedding.weight": "embedding.tokens.weight",
        "positional_embedding": "embedding.positions",
        "padding_embedding": "embedding.padding",
    }
    entries = [same(theirs, ours) for theirs, ours in tables.items()]
    entries += layer("final_ln", "transformer.norm")
    return entries + prefixed(original_blocks(text.transformer), "", "transformer.")
