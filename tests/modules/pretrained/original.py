"""Models of diffusers' classes in the layout of the original checkpoints, written independently of the importer.

The names are those of diffusers' own conversion script (`convert_kakao_brain_unclip_to_diffusers.py`), backwards.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
U_NET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
PRIOR = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "proj_in": "clip_img_proj",
    "embedding_proj": "text_emb_proj",
    "encoder_hidden_states_proj": "text_enc_proj",
    "positional_embedding": "positional_embedding",
    "prd_embedding": "prd_emb",
    "norm_out": "final_ln",
    "proj_to_clip_embeddings": "out_proj",
}
PRIOR_BLOCK = {
    "norm1": "ln_1",
    "norm3": "ln_2",
    "attn1.to_out.0": "attn.c_proj",
    "ff.net.0.proj": "mlp.c_fc",
    "ff.net.2": "mlp.c_proj",
}
PROJECTION = {
    "learned_classifier_free_guidance_embeddings": "cf_param",
    "embedding_proj": "text_feat_proj",
    "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
    "clip_extra_context_tokens_proj": "clip_tok_proj",
    "encoder_hidden_states_proj": "text_seq_proj.0",
    "text_encoder_hidden_states_norm": "text_seq_proj.1",
}


def interleaved(parts: list[Tensor], heads: int) -> Tensor:
    """q, k and v -> rows of the first head's q, k, v, then of the second's."""
    chunks = [part.chunk(heads) for part in parts]
    return torch.cat([chunk[head] for head in range(heads) for chunk in chunks])


def prior(module: nn.Module) -> dict[str, Tensor]:
    state, heads = module.state_dict(), module.config.num_attention_heads
    found = {}
    for name, tensor in state.items():
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)\.(weight|bias)$", name)
        if block and block[2] in PRIOR_BLOCK:
            found[f"transformer.resblocks.{block[1]}.{PRIOR_BLOCK[block[2]]}.{block[3]}"] = tensor
        elif block and block[2] == "attn1.to_q":
            parts = [state[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            found[f"transformer.resblocks.{block[1]}.attn.c_qkv.{block[3]}"] = interleaved(parts, heads)
        elif not block and not name.startswith("clip_"):
            stem = name if name in PRIOR else name.rpartition(".")[0]
            found[PRIOR[stem] + name.removeprefix(stem)] = tensor
    return found


def u_net(module: nn.Module, head: int = 64) -> dict[str, Tensor]:
    found = {}
    depth = module.config.layers_per_block
    state = module.state_dict()
    for name, tensor in state.items():
        place, rest = place_of(name, depth, state)
        if rest.startswith(("to_k", "to_v", "add_v")):
            continue
        stem, _, kind = rest.rpartition(".")
        if stem in ("to_q", "add_k_proj"):
            own = "qkv" if stem == "to_q" else "kv"
            names = [name.replace("to_q", f"to_{x}").replace("add_k", f"add_{x}") for x in own]
            joined = interleaved([state[x] for x in names], len(state[names[0]]) // head)
            key = "qkv" if stem == "to_q" else "encoder_kv"
            found[f"{place}.{key}.{kind}"] = joined[..., None] if kind == "weight" else joined
        elif stem == "to_out.0":
            found[f"{place}.proj_out.{kind}"] = tensor[..., None] if kind == "weight" else tensor
        elif stem == "group_norm":
            found[f"{place}.norm.{kind}"] = tensor
        else:
            found[f"{place}.{BLOCK[stem]}.{kind}" if stem else f"{place}.{kind}"] = tensor
    return found


def place_of(name: str, depth: int, state: dict[str, Tensor]) -> tuple[str, str]:
    """The module in the original network, and the rest of the name."""
    for theirs, ours in U_NET.items():
        if name.startswith(theirs + "."):
            return ours, name.removeprefix(theirs + ".")
    way, level, kind, number, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
    per_level = depth + 1
    if way == "down":
        block = 1 + int(level) * per_level + (depth if kind == "downsamplers" else int(number))
        return f"input_blocks.{block}.{int(kind == 'attentions')}", rest
    block = int(level) * per_level + (depth if kind == "upsamplers" else int(number))
    attends = any(key.startswith(f"up_blocks.{level}.attentions") for key in state)
    return f"output_blocks.{block}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': 1 + attends}[kind] }", rest


def karlo(parts: dict[str, nn.Module], folder: Path) -> None:
    """The four files, pickles as they are released."""
    folder.mkdir()
    files = {
        "prior-ckpt-step=01000000-of-01000000.ckpt": {f"model.{k}": x for k, x in prior(parts["prior"]).items()},
        "decoder-ckpt-step=01000000-of-01000000.ckpt": {f"model.{k}": x for k, x in decoder(parts).items()},
        "improved-sr-ckpt-step=1.2M.ckpt": {
            **{f"model_first_steps.{k}": x for k, x in u_net(parts["super_res_first"]).items()},
            **{f"model_last_step.{k}": x for k, x in u_net(parts["super_res_last"]).items()},
        },
    }
    for name, state in files.items():
        torch.save({"state_dict": state, "epoch": 1}, folder / name)
    statistics = (parts["prior"].clip_mean.detach()[0], parts["prior"].clip_std.detach()[0])
    torch.save(statistics, folder / "ViT-L-14_stats.th")


def decoder(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    found = u_net(parts["decoder"])
    for name, tensor in parts["text_proj"].state_dict().items():
        stem = name if name in PROJECTION else name.rpartition(".")[0]
        found[PROJECTION[stem] + name.removeprefix(stem)] = tensor
    return found


def glide(upsampler: bool, length: int = 8, width: int = 64, words: int = 20, upper: int = 1) -> dict[str, Tensor]:
    """GLIDE's base model or upsampler at a small size: `upper` levels of one width, and a lowest one with attention."""
    levels, depth, emb = ([64] * upper + [128], 2, 256) if not upsampler else ([32] * upper + [64], 1, 128)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (words, width),
        "positional_embedding": (length, width),
        "padding_embedding": (length, width),
        **_layer("final_ln", (width,)),
        **_layer("transformer_proj", (emb, width)),
        **_layer("time_embed.0", (emb, levels[0])),
        **_layer("time_embed.2", (emb, emb)),
        **_layer("input_blocks.0.0", (levels[0], 6 if upsampler else 3, 3, 3)),
        **_layer("out.0", (levels[0],)),
        **_layer("out.2", (6, levels[0], 3, 3)),
    }
    for k in range(2):
        name = f"transformer.resblocks.{k}"
        shapes |= _layer(f"{name}.ln_1", (width,)) | _layer(f"{name}.ln_2", (width,))
        shapes |= _layer(f"{name}.attn.c_qkv", (3 * width, width)) | _layer(f"{name}.attn.c_proj", (width, width))
        shapes |= _layer(f"{name}.mlp.c_fc", (4 * width, width)) | _layer(f"{name}.mlp.c_proj", (width, 4 * width))
    now, skips, number = levels[0], [levels[0]], 1
    for level, out in enumerate(levels):
        for _ in range(depth):
            shapes |= _residual(f"input_blocks.{number}.0", now, out, emb)
            shapes |= _attention(f"input_blocks.{number}.1", out, width) if level == upper else {}
            now, number = out, number + 1
            skips.append(now)
        if level < upper:
            shapes |= _residual(f"input_blocks.{number}.0", now, now, emb)
            number += 1
            skips.append(now)
    shapes |= _residual("middle_block.0", now, now, emb) | _attention("middle_block.1", now, width)
    shapes |= _residual("middle_block.2", now, now, emb)
    number = 0
    for level, out in reversed(list(enumerate(levels))):
        for block in range(depth + 1):
            shapes |= _residual(f"output_blocks.{number}.0", now + skips.pop(), out, emb)
            shapes |= _attention(f"output_blocks.{number}.1", out, width) if level == upper else {}
            now = out
            if level and block == depth:
                shapes |= _residual(f"output_blocks.{number}.{2 if level == upper else 1}", now, now, emb)
            number += 1
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _residual(name: str, c_in: int, c_out: int, emb: int) -> dict[str, tuple[int, ...]]:
    found = _layer(f"{name}.in_layers.0", (c_in,)) | _layer(f"{name}.in_layers.2", (c_out, c_in, 3, 3))
    found |= _layer(f"{name}.emb_layers.1", (2 * c_out, emb)) | _layer(f"{name}.out_layers.0", (c_out,))
    found |= _layer(f"{name}.out_layers.3", (c_out, c_out, 3, 3))
    return found | (_layer(f"{name}.skip_connection", (c_out, c_in, 1, 1)) if c_in != c_out else {})


def _attention(name: str, width: int, context: int) -> dict[str, tuple[int, ...]]:
    found = _layer(f"{name}.norm", (width,)) | _layer(f"{name}.qkv", (3 * width, width, 1))
    found |= _layer(f"{name}.encoder_kv", (2 * width, context, 1))
    return found | _layer(f"{name}.proj_out", (width, width, 1))
