"""What the paper published (arXiv 2204.06125), to stand beside our numbers, and never in one ranking with them."""

from __future__ import annotations

PROTOCOL = "MS-COCO, 256 px, 30,000 captions"

TABLE_1: dict[str, tuple[tuple[float, float], ...]] = {
    "unCLIP, AR prior": ((47.1, 3.1), (41.1, 3.0), (62.6, 3.0)),
    "unCLIP, diffusion prior": ((48.9, 3.1), (45.3, 3.0), (70.5, 2.8)),
}
"""Share of comparisons with GLIDE that unCLIP wins, in percent, and half its interval, by question."""

QUESTIONS = ("photorealism", "caption", "diversity")

TABLE_2: dict[str, tuple[float | None, float | None, float | None]] = {
    "AttnGAN": (35.49, None, None),
    "DM-GAN": (32.64, None, None),
    "DF-GAN": (21.42, None, None),
    "DM-GAN + CL": (20.79, None, None),
    "XMC-GAN": (9.33, None, None),
    "LAFITE": (8.12, 26.94, None),
    "Make-A-Scene": (7.55, None, 11.84),
    "DALL-E": (None, 28.0, None),
    "GLIDE": (None, 12.24, 12.89),
    "unCLIP, AR prior": (None, 10.63, 11.08),
    "unCLIP, diffusion prior": (None, 10.39, 10.87),
}
"""FID trained on MS-COCO, zero-shot, and zero-shot on the filtered validation set."""

ABLATION: dict[str, float] = {
    "text_decoder": 9.16,
    "unclip": 7.99,
    "text_embedding": 16.55,
}
"""Section 5.1, FID at the best guidance: decoder trained on z_t, small unCLIP stack, z_t fed zero-shot."""

TABLE_3: dict[str, dict[str, str]] = {
    "ar_prior": {
        "batch size": "4096", "iterations": "1M", "learning rate": "1.6e-4", "weight decay": "4.0e-2",
        "Adam beta2": "0.91", "Adam epsilon": "1e-10", "EMA decay": "0.999", "parameters": "1B",
        "text width / depth": "2048 / 24",
    },
    "diffusion_prior": {
        "diffusion steps": "1000", "noise schedule": "cosine", "sampling steps": "64", "sampler": "analytic",
        "batch size": "4096", "iterations": "600K", "learning rate": "1.1e-4", "weight decay": "6.0e-2",
        "Adam beta2": "0.96", "Adam epsilon": "1e-6", "EMA decay": "0.9999", "parameters": "1B",
        "text width / depth": "2048 / 24",
    },
    "decoder": {
        "diffusion steps": "1000", "noise schedule": "cosine", "sampling steps": "250", "sampler": "learned",
        "channels": "512", "depth": "3", "channel multipliers": "1,2,3,4", "attention resolutions": "32,16,8",
        "batch size": "2048", "iterations": "800K", "learning rate": "1.2e-4", "Adam beta2": "0.999",
        "Adam epsilon": "1e-8", "EMA decay": "0.9999", "parameters": "3.5B", "text width / depth": "2048 / 24",
    },
    "upsampler": {
        "diffusion steps": "1000", "noise schedule": "cosine", "sampling steps": "27", "sampler": "DDIM",
        "channels": "320", "depth": "3", "channel multipliers": "1,2,3,4", "batch size": "1024", "iterations": "1M",
        "learning rate": "1.2e-4", "Adam beta2": "0.999", "Adam epsilon": "1e-8", "EMA decay": "0.9999",
        "parameters": "700M",
    },
}  # fmt: skip
"""Hyperparameters by stage; the upsampler's is the 64 -> 256 one."""
