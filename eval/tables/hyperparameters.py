"""The rows of the paper's Table 3: its values, and the keys of our values in a stage's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("ar_prior", "diffusion_prior", "decoder", "upsampler_256", "upsampler_1024")
TITLES = ("AR prior", "Diffusion prior", "64", "64 -> 256", "256 -> 1024")

NETWORK, UNET = "model.init_args.network.init_args.", "model.init_args.network.init_args.unet."
OBJECTIVE, SAMPLER = "model.init_args.objective.", "model.init_args.sampler."
OPTIMIZER, TRAINER = "model.init_args.optimizer.init_args.", "trainer."

ROWS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "diffusion steps": (OBJECTIVE + "num_steps", (None, 1000, 1000, 1000, 1000)),
    "noise schedule": (OBJECTIVE + "schedule", (None, "cosine", "cosine", "cosine", "linear")),
    "sampling steps": (SAMPLER + "steps", (None, 64, 250, 27, 15)),
    "sampling variance": ("", (None, "analytic", "learned", "DDIM", "DDIM")),
    "crop fraction": ("model.init_args.crop", (None, None, None, 0.25, 0.25)),
    "channels": (UNET + "channels", (None, None, 512, 320, 192)),
    "depth": (UNET + "depth", (None, None, 3, 3, 2)),
    "channel multipliers": (
        UNET + "channel_multipliers",
        (None, None, [1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 2, 2, 4, 4]),
    ),
    "head channels": (UNET + "head_channels", (None, None, 64, None, None)),
    "attention resolutions": (UNET + "attention_resolutions", (None, None, [32, 16, 8], None, None)),
    "text context": (NETWORK + "context_length", (256, 256, 256, None, None)),
    "text width": ("", (2048, 2048, 2048, None, None)),
    "text depth": ("", (24, 24, 24, None, None)),
    "text heads": ("", (32, 32, 32, None, None)),
    "latent decoder context": ("", (384, None, None, None, None)),
    "latent decoder width": ("", (1664, None, None, None, None)),
    "latent decoder depth": ("", (24, None, None, None, None)),
    "latent decoder heads": ("", (26, None, None, None, None)),
    "dropout": (UNET + "dropout", (None, None, 0.1, 0.1, None)),
    "weight decay": (OPTIMIZER + "weight_decay", (4.0e-2, 6.0e-2, None, None, None)),
    "batch size": ("", (4096, 4096, 2048, 1024, 512)),
    "iterations": (TRAINER + "max_steps", (1_000_000, 600_000, 800_000, 1_000_000, 1_000_000)),
    "learning rate": (OPTIMIZER + "lr", (1.6e-4, 1.1e-4, 1.2e-4, 1.2e-4, 1.0e-4)),
    "Adam beta2": ("", (0.91, 0.96, 0.999, 0.999, 0.999)),
    "Adam epsilon": (OPTIMIZER + "eps", (1e-10, 1e-6, 1e-8, 1e-8, 1e-8)),
    "EMA decay": ("model.init_args.training.ema_decay", (0.999, 0.9999, 0.9999, 0.9999, 0.9999)),
}
"""Row of Table 3 -> where the YAMLs have it ("": see `setting`), and the paper's values, in STAGES' order."""

SIZES = {"ar_prior": 1e9, "diffusion_prior": 1e9, "decoder": 3.5e9, "upsampler_256": 7e8, "upsampler_1024": 3e8}
"""The row "model size"."""


def lookup(config: Mapping[str, Any], path: str) -> Any:
    """The value at 'a.b.c', or None."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def setting(stage: str, row: str, config: Mapping[str, Any]) -> Any:
    """A row of Table 3, from a stage's YAML; None where the stage has no such thing.

    Args:
        stage: one of `STAGES`.
        row: one of `ROWS`.
        config: the YAML.
    """
    if ROWS[row][0]:
        value = lookup(config, ROWS[row][0])
        hidden = row in ("dropout", "weight decay") and not value
        hidden |= row == "head channels" and not lookup(config, UNET + "attention_resolutions")
        return None if value in ([], None) or hidden else value
    if row == "sampling variance":
        sampler = lookup(config, SAMPLER[:-1]) or {}
        names = {"analytic_dpm": "analytic", "ddim": "DDIM", "ddpm": sampler.get("variance")}
        return names.get(sampler.get("name", ""))
    if row == "batch size":
        return _batch_size(config)
    if row == "Adam beta2":
        betas = lookup(config, OPTIMIZER + "betas")
        return None if betas is None else betas[1]
    return _transformer_setting(stage, row, config)


def _batch_size(config: Mapping[str, Any]) -> int | str | None:
    """Samples of a step on all devices; '64 x auto devices' where their number is the machine's."""
    product = lookup(config, "data.init_args.batch_size")
    if type(product) is not int:
        return None
    for key in ("trainer.num_nodes", "trainer.accumulate_grad_batches"):
        product *= int(lookup(config, key) or 1)
    devices = lookup(config, "trainer.devices") or 1
    if isinstance(devices, list):
        return product * len(devices)
    known = str(devices).isdigit()
    return product * int(devices) if known else f"{product:,} x {'all' if devices in (-1, '-1') else devices} devices"


def _transformer_setting(stage: str, row: str, config: Mapping[str, Any]) -> Any:
    owner, _, what = row.rpartition(" ")
    if owner == "text":
        if stage == "diffusion_prior":  # Its one transformer reads the caption as well.
            return lookup(config, NETWORK + what)
        return lookup(config, NETWORK + f"text_{what}") if lookup(config, NETWORK + "text_depth") else None
    if stage != "ar_prior":
        return None
    if what == "context":
        caption, codes = (lookup(config, NETWORK + name) for name in ("context_length", "num_codes"))
        return None if caption is None or codes is None else caption + 2 + codes
    return lookup(config, NETWORK + what)


def text_of(value: Any) -> str:
    """A setting, for a table."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def size_text(number: float) -> str:
    """Three digits and a unit: 1.31 B, 305 M, 1.46 P."""
    for unit, name in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,.0f}"
