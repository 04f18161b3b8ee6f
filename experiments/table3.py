"""`unclip table3`: the paper's Table 3 from the paper-scale YAMLs, with counted parameters and FLOPs.

The hyperparameters that a run was trained with stand in the Table 3 that `unclip tables RUN` writes.

The networks are built on the meta device: shapes without numbers, so 3.5 B parameters take no memory. FLOPs are those
of matrix products, convolutions and attention, a multiplication and an addition counting as two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eval.hyperparameters import (
    NETWORK,
    ROWS,
    SAMPLER,
    SIZES,
    STAGES,
    TITLES,
    UNET,
    lookup,
    setting,
    size_text,
    text_of,
)
from experiments.arguments import CommandParser
from experiments.cli import check_config_file
from experiments.folders import write_text
from modules.errors import InputError
from modules.networks.ar_prior import ARPriorNetwork
from modules.networks.decoder import DecoderNetwork
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.upsampler import UpsamplerNetwork

NETWORKS: dict[str, type[nn.Module]] = {
    "ar_prior": ARPriorNetwork,
    "diffusion_prior": DiffusionPriorNetwork,
    "decoder": DecoderNetwork,
    "upsampler_256": UpsamplerNetwork,
    "upsampler_1024": UpsamplerNetwork,
}
SHAPE = (
    "channels",
    "depth",
    "channel multipliers",
    "head channels",
    "attention resolutions",
    "text context",
    "text width",
    "text depth",
    "text heads",
    "latent decoder width",
    "latent decoder depth",
    "latent decoder heads",
)
"""Rows that a network's size follows from."""


@dataclass(frozen=True)
class Count:
    """What a stage's network amounts to.

    Attributes:
        parts: parameters by part of the network.
        forward: FLOPs of one evaluation for one sample, as training does it, conditioning included.
        image: FLOPs of all evaluations that one image takes in sampling: guidance, candidates and fast paths included.
    """

    parts: dict[str, int]
    forward: float
    image: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())


def main(argv: list[str]) -> int:
    """Run `unclip table3`."""
    parser = CommandParser(prog="unclip table3", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("experiments/paper"), help="the YAMLs of the five stages")
    parser.add_argument("--out", type=Path, help="also write the table as a text file")
    options = parser.parse_args(argv)
    configs = {stage: read(options.folder / f"{stage}.yaml") for stage in STAGES}
    text = table(configs, {stage: count(stage, configs[stage]) for stage in STAGES})
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def read(path: Path) -> dict[str, Any]:
    """What `unclip fit` makes of a stage's YAML: defaults included, references to other settings resolved.

    Raises:
        InputError: there is none, or it is not the config of a stage.
    """
    from experiments import plan  # It prints tables with this module.

    if not path.is_file():
        raise InputError(f"no {path}: --folder names a folder with {', '.join(f'{stage}.yaml' for stage in STAGES)}")
    check_config_file(path)
    try:
        return plan.read(["--config", str(path)])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def build(config: dict[str, Any]) -> Any:
    """A stage's network on the meta device."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    try:
        parsed = parser.parse_object({"network": lookup(config, NETWORK.removesuffix(".init_args."))})
        with torch.device("meta"):
            return parser.instantiate(parsed).network
    except Exception as error:
        raise InputError(f"model.init_args.network: {' '.join(str(error).split())}") from error


def count(stage: str, config: dict[str, Any]) -> Count:
    """Parameters and FLOPs of a stage."""
    network = build(config).eval()
    if not isinstance(network, NETWORKS[stage]):
        raise InputError(
            f"{stage}.yaml: model.init_args.network is a {type(network).__name__}, and not a {NETWORKS[stage].__name__}"
        )
    parts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.numel()
    flops = {"ar_prior": _ar_prior, "diffusion_prior": _diffusion_prior, "decoder": _decoder}.get(stage, _upsampler)
    with torch.device("meta"):
        return Count(parts, *flops(network, config))


def _part(name: str) -> str:
    """Which part of a network a parameter belongs to."""
    if name.endswith(".tokens.weight"):
        return "vocabulary"
    first = name.split(".")[0]
    if first.startswith("clip_to"):
        return "projections of z_i"
    if first == "tokens" and ".transformer." in name:  # The AR prior's text encoder.
        return "text"
    return first if first in ("unet", "text", "transformer") else "other"


def flops_of(run: Callable[[], Any]) -> float:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _tokens(network: Any, config: dict[str, Any]) -> Tensor:
    """(1, L) tokens; or, for a prior that reads a frozen CLIP's features of them, (1, L, F)."""
    length, features = lookup(config, NETWORK + "context_length"), getattr(network, "feature_dim", None)
    return torch.zeros(1, length, dtype=torch.int64) if features is None else torch.zeros(1, length, features)


def _guided(scale: float | None) -> int:
    return 1 if scale in (None, 1) else 2


def _ar_prior(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """The codes one after another through the key/value cache; their cost grows evenly with their place."""
    tokens, z_t, k = _tokens(network, config), torch.empty(1, network.embedding_dim), network.num_codes
    dot, codes = torch.zeros(1, dtype=torch.int64), torch.zeros(1, k, dtype=torch.int64)
    forward = flops_of(lambda: network(tokens, z_t, dot, codes))
    prefix, width = tokens.shape[1] + 1, network.transformer.width
    cache = network.transformer.make_cache(1, prefix + k)
    start = flops_of(lambda: network.transformer(network._text(tokens, z_t, None), cache=cache))

    def step() -> Tensor:
        return network.out(network.transformer(torch.empty(1, 1, width), cache=cache)[:, -1])

    first = flops_of(step)
    cache.length = prefix + k - 1
    steps = k * (first + flops_of(step)) / 2
    return forward, _guided(lookup(config, "model.init_args.guidance_scale")) * (start + steps)


def _diffusion_prior(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Text once, then three tokens a step; two candidates (section 2.2)."""
    tokens, x = _tokens(network, config), torch.empty(1, network.embedding_dim)
    t = torch.zeros(1, dtype=torch.int64)
    forward = flops_of(lambda: network(x, t, tokens, x))
    cache = network.transformer.make_cache(1, tokens.shape[1] + 1 + 3)
    start = flops_of(lambda: network.transformer(network._prefix(tokens, x, None), cache=cache))
    step = flops_of(lambda: network.step(x, t, cache))
    copies = _guided(lookup(config, SAMPLER + "guidance_scale"))
    return forward, copies * (start + 2 * lookup(config, SAMPLER + "steps") * step)


def _decoder(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Caption and embedding once, then the U-Net at every step."""
    tokens = _tokens(network, config)
    z_i = None if network.embedding_dim is None else torch.empty(1, network.embedding_dim)
    start = flops_of(lambda: network.condition(tokens, z_i))
    condition, side = network.condition(tokens, z_i), lookup(config, UNET + "image_size")
    x, t = torch.empty(1, network.channels, side, side), torch.zeros(1, dtype=torch.int64)
    step = flops_of(lambda: network(x, t, condition))
    copies = _guided(lookup(config, SAMPLER + "guidance_scale"))
    return start + step, copies * (start + lookup(config, SAMPLER + "steps") * step)


def _upsampler(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Convolutionally at full size; a training step sees a crop of it."""
    side, crop = lookup(config, UNET + "image_size"), lookup(config, "model.init_args.crop")
    t = torch.zeros(1, dtype=torch.int64)
    small, full = (torch.empty(1, network.channels, s, s) for s in (round(side * crop), side))
    forward = flops_of(lambda: network(small, t, small))
    return forward, lookup(config, SAMPLER + "steps") * flops_of(lambda: network(full, t, full))


def table(configs: dict[str, dict[str, Any]], counts: dict[str, Count]) -> str:
    """Table 3 and what was counted, as text; a value that is not the paper's is followed by the paper's."""
    lines = [["", *TITLES]]
    for row, (_, papers) in ROWS.items():
        cells = []
        for stage, paper in zip(STAGES, papers, strict=True):
            ours = setting(stage, row, configs[stage])
            same = ours == paper
            cells.append(
                text_of(None if same and paper is None else ours) + ("" if same else f" (paper: {text_of(paper)})")
            )
        lines.append([row, *cells])
    every = [counts[stage] for stage in STAGES]
    lines += [
        ["model size", *(f"{size_text(SIZES[stage])} (the paper's)" for stage in STAGES)],
        ["parameters counted", *(f"{size_text(c.parameters)}" for c in every)],
        ["  of the paper's", *(f"{c.parameters / SIZES[stage]:.2f}x" for stage, c in zip(STAGES, every, strict=True))],
        ["FLOPs, one forward pass", *(size_text(c.forward) for c in every)],
        ["FLOPs, one image", *(size_text(c.image) for c in every)],
    ]
    shares = [c.image / sum(c.image for c in every[1:]) for c in every]
    lines.append(["  share, with this prior", "-", *(f"{100 * share:.0f} %" for share in shares[1:])])
    notes = [note(stage, configs[stage], counts[stage]) for stage in STAGES]
    notes = [f"{title}: {text}." for title, text in zip(TITLES, notes, strict=True)]
    explained = (
        "One forward pass is one sample of a training batch (an upsampler's crop). One image counts guidance, the two "
        "draws of the diffusion prior, the key/value caches, and the upsamplers at full size."
    )
    return "\n".join([aligned(lines), "", explained, *notes])


def note(stage: str, config: dict[str, Any], counted: Count) -> str:
    """A stage's parameters by part; and, where it is so, why they are not as many as the paper says."""
    texts = [_parts(counted), why(stage, config, counted)]
    codes, context = lookup(config, NETWORK + "num_codes"), setting(stage, "text context", config)
    papers = ROWS["latent decoder context"][1][STAGES.index(stage)]
    if papers is not None and codes and codes + context > papers:
        texts.append(
            f"the paper's latent decoder context of {papers} has no room for the {context} caption tokens that section "
            f"2.2 puts in front of the {codes} codes; ours is caption, z_t, dot product and codes"
        )
    return "; ".join(text for text in texts if text)


def why(stage: str, config: dict[str, Any], counted: Count) -> str:
    """Why a count is not the paper's size; '' where it is, within 5 %."""
    paper, number = SIZES[stage], counted.parameters
    if abs(number / paper - 1) <= 0.05:
        return ""
    papers = {row: ROWS[row][1][STAGES.index(stage)] for row in SHAPE}
    ours = {row: setting(stage, row, config) for row in SHAPE}
    others = [
        f"{row} {text_of(ours[row])} (paper: {text_of(papers[row])})" for row in SHAPE if ours[row] != papers[row]
    ]
    if others:
        return f"not the paper's network: {', '.join(others)}"
    if float(f"{number:.0e}") == paper:
        return f"to one digit, as the paper gives it, this is its {size_text(paper)}"
    if stage == "ar_prior":
        text, latent = (size_text(counted.parts.get(part, 0)) for part in ("text", "transformer"))
        return (
            f"Table 3's text encoder and latent decoder have {text} and {latent} by their widths and depths alone, so "
            f"{size_text(paper)} can be one of them only"
        )
    if stage == "decoder":
        new = counted.parts.get("projections of z_i", 0)
        return f"the paper's {size_text(paper)} is GLIDE's, whose caption vocabulary is its own" + (
            "; z_i's projections are new" if new else ""
        )
    return f"the network is Table 3's; what the paper's {size_text(paper)} leaves out is not known"


def aligned(lines: list[list[str]]) -> str:
    """Columns side by side, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _parts(counted: Count) -> str:
    return ", ".join(f"{name} {size_text(number)}" for name, number in counted.parts.items())
