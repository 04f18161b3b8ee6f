"""The keys of CLIPs: transformers' text and vision models with projections <-> open_clip's, which are OpenAI's."""

from __future__ import annotations

from modules.pretrained.key_map import Entry, layer, same, stacked, transposed


def text_entries(layers: int) -> list[Entry]:
    """transformers' CLIPTextModelWithProjection."""
    entries = [
        same("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        same("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        *layer("text_model.final_layer_norm", "ln_final"),
        transposed("text_projection.weight", "text_projection"),
    ]
    return entries + _blocks("text_model.encoder.layers", "transformer.resblocks", layers)


def vision_entries(layers: int) -> list[Entry]:
    """transformers' CLIPVisionModelWithProjection."""
    entries = [
        same("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        same("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        same("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        *layer("vision_model.pre_layrnorm", "visual.ln_pre"),  # Their spelling.
        *layer("vision_model.post_layernorm", "visual.ln_post"),
        transposed("visual_projection.weight", "visual.proj"),
    ]
    return entries + _blocks("vision_model.encoder.layers", "visual.transformer.resblocks", layers)


def _blocks(theirs: str, ours: str, count: int) -> list[Entry]:
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    entries = []
    for k in range(count):
        entries += [e for their, our in names.items() for e in layer(f"{theirs}.{k}.{their}", f"{ours}.{k}.{our}")]
        for part in ("weight", "bias"):
            parts = [f"{theirs}.{k}.self_attn.{name}_proj.{part}" for name in "qkv"]
            entries.append(stacked(parts, f"{ours}.{k}.attn.in_proj_{part}"))
    return entries
