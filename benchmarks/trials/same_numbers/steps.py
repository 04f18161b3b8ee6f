"""The steps of the trial: the commands that both versions of the code run, and what is compared of each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.trials.same_numbers.configs import JUDGES, STAGES
from benchmarks.trials.same_numbers.side import INPUTS, Step

PARTS = ("train", "use", "resume", "suite")
RUN = "use/run"
CONDITIONS = (
    *("caption_only", "glide", "text_embedding", "linear_prior", "ar_prior", "diffusion_prior", "image_embedding"),
)
HALF = "checkpoints/last-1.ckpt"
CHECKPOINT = "checkpoints/last.ckpt"
JUDGED = f"--classifier {RUN}/classifier --clip {RUN}/eval_clip/export --cache ''"
FEW = "--size 128 --overwrite"
CAPTIONS = "'a large red circle above a small blue square' 'a small green triangle'"

SAMPLES = {
    "ddpm": "--condition diffusion_prior --decoder-sampler ddpm --decoder-steps 6",
    "ddim": "--condition diffusion_prior --decoder-sampler ddim --decoder-steps 6 --decoder-guidance 1",
    "dpm_solver_pp": "--condition diffusion_prior --decoder-sampler dpm_solver_pp --decoder-steps 6",
    "prior guidance": "--condition diffusion_prior --prior-guidance 2.5 --decoder-guidance 4 --upsampler-steps 3",
    "ar guidance": "--condition ar_prior --prior-guidance 1.5 --batch-size 3 --decoder-steps 4",
    "own size": "--condition linear_prior --no-upsample --seed 7 --decoder-steps 4",
    "glide steps": "--condition glide --decoder-steps 4 --decoder-guidance 1.5 --seed 3 --batch-size 5",
}
"""Samples of six captions with other settings than the stages' own."""

FIGURES = {
    "reconstruct": "reconstruct -n 3 --steps 10 --sweep-steps 5 10 --sweep-guidance 1 2",
    "variations": "variations -n 3 --steps 8 --shown 2",
    "interpolate": f"interpolate --steps 6 --grid 3 --captions {CAPTIONS}",
    "text_diff": "text-diff --table 4 --choose 4 --steps 4 --theta 0.3 0.4",
    "edit": "text-diff -n 2 --steps 6 --target 'a blue circle' --base 'a red circle' --theta 0 0.25",
    "pca": "pca -n 3 --steps 6 --shown 2",
    "typographic": "typographic -n 2 --steps 6",
    "conditioning_grid": "conditioning-grid -n 2 --columns 2",
    "guidance_grid": "guidance-grid -n 2 --scales 1 3",
    "inpaint": "inpaint -n 2 --fills 2 --steps 5 --resamples 2",
}
"""Figure of a run -> the command that makes it, as `unclip gallery` does, smaller."""


def train() -> Iterator[Step]:
    """Train each stage from one seed. The embeddings and CLIP that stages read are the old version's."""
    yield fit("clip")
    words = f"embed --config configs/data.yaml --clip {INPUTS}/clip/export --out train/embeddings --overwrite"
    copies = (("train/clip/export", f"{INPUTS}/clip/export"),)
    yield Step("train", "embeddings", tuple(words.split()), ("train/embeddings",), copies)
    words = f"probe --config configs/data.yaml --embeddings {INPUTS}/embeddings --out train/probe.json"
    copies = (("train/embeddings", f"{INPUTS}/embeddings"),)
    yield Step("train", "probe", tuple(words.split()), ("train/probe.json",), copies)
    words = f"rank {INPUTS}/embeddings --out train/rank.json"
    yield Step("train", "rank", tuple(words.split()), ("train/rank.json",), copies)
    for name in (*STAGES[1:], *JUDGES):
        yield replace(fit(name), copies=copies)


def fit(name: str) -> Step:
    """Train a stage."""
    compared = tuple(f"train/{name}/{part}" for part in ("export", CHECKPOINT, "metrics.csv"))
    return Step("train", name, ("fit", "--config", f"configs/{name}.yaml", "--overwrite"), compared)


def resume() -> Iterator[Step]:
    """Go on with each training from the old version's checkpoint at half of it."""
    for name in (*STAGES, *JUDGES):
        words = f"fit --config configs/{name}.yaml --trainer.default_root_dir=resume/{name} --trainer.logger=false"
        folder = f"resume/{name}"
        copies = [(f"train/{name}/{HALF}", f"{folder}/{CHECKPOINT}")]
        copies += [(f"train/{name}/config.yaml", f"{folder}/config.yaml")]
        copies += [("train/embeddings", f"{INPUTS}/embeddings")]
        compared = (f"{folder}/export", f"{folder}/{CHECKPOINT}")
        yield Step("resume", name, (*words.split(), "--ckpt_path", "last"), compared, tuple(copies))


def use(source: str | None) -> Iterator[Step]:
    """Everything that is done with a run folder of the old version.

    Args:
        source: the run folder; None takes the stages of the part "train".
    """
    own = [(f"{source or 'train'}/{name}", f"{RUN}/{name}") for name in (*STAGES, *JUDGES, "embeddings", "probe.json")]
    reference = "samples/reference"
    yield replace(export("reference", "--split val --captions 48 " + FEW), copies=tuple(own))
    yield export("reference_small", "--split val --captions 48 --size 32 --overwrite")
    yield export("real", f"--split test --captions 24 --per-caption 2 {FEW}")
    for name in CONDITIONS:
        words = f"--captions {RUN}/samples/real/manifest.jsonl -n 2 --condition {name}"
        yield sample(name, words, f"{RUN}/samples/{name}")
    few = "--captions configs/captions.txt -n 2"
    for name, words in SAMPLES.items():
        yield sample(name, f"{few} {words}", f"use/samples/{name.replace(' ', '_')}")
    yield sample("one caption", "'a large red circle above a small blue square'", "use/samples/one")
    folders = " ".join(f"{RUN}/samples/{name}" for name in (*CONDITIONS, "real"))
    outputs = [f"{RUN}/samples/{name}/metrics.json" for name in (*CONDITIONS, "real")]
    yield step("use", "evaluate", f"evaluate {folders} --reference {RUN}/{reference} --bootstrap 50 {JUDGED}", *outputs)
    yield from sweeps()
    yield from figures()
    yield from predictions(f"{source or 'train'}/embeddings")
    yield from reports()


def export(name: str, words: str) -> Step:
    """Write real pictures."""
    out = f"{RUN}/samples/{name}"
    return step("use", f"data {name}", f"data export --config configs/data.yaml --out {out} {words}", out)


def sample(name: str, words: str, out: str) -> Step:
    """Draw pictures."""
    return step("use", f"sample {name}", f"sample {words} --run {RUN} --out {out} --overwrite", out)


def sweeps() -> Iterator[Step]:
    """The suite's sweeps with few captions, and those over further settings."""
    small = f"--reference {RUN}/samples/reference_small {JUDGED}"
    protocols = "{checkout}/experiments/protocols"
    own = {
        "guidance": f"{protocols}/guidance.yaml {small} --captions 24 --set decoder.steps=2",
        "sampler": f"{protocols}/sampler.yaml {small} --captions 24 --set decoder.steps=2,4",
        "prior": f"{protocols}/prior.yaml --captions 16",
        "settings": f"configs/sweep_settings.yaml {small}",
        "settings_prior": "configs/sweep_settings_prior.yaml",
    }
    for name, words in own.items():
        made = step("use", f"sweep {name}", f"sweep {words} --run {RUN}", f"{RUN}/sweeps/{name}.json")
        yield replace(made, outputs=(*made.outputs, f"{RUN}/sweeps/{name}"))


def figures() -> Iterator[Step]:
    """What the paper does to an image; and latents in a file, from which two more figures are drawn."""
    for name, words in FIGURES.items():
        out = f"{RUN}/manipulations/{name}"
        yield step("use", name, f"{words} --run {RUN} --out {out} --overwrite", out)
    words = f"invert -n 2 --steps 6 --run {RUN} --out use/latents.safetensors --figure use/inverted --overwrite"
    yield step("use", "invert", words, "use/latents.safetensors", "use/inverted")
    words = f"invert -n 2 --steps 4 --fixed-point 3 --guidance 2 --caption 'a red circle' --run {RUN}"
    yield step("use", "invert exactly", f"{words} --out use/exact.safetensors --overwrite", "use/exact.safetensors")
    words = "text-diff --latents use/latents.safetensors --target 'a blue circle' --theta 0.2"
    yield step("use", "edit of latents", f"{words} --run {RUN} --out use/edited --overwrite", "use/edited")
    words = f"reconstruct -n 2 --steps 5 --guidance 2 --run {RUN} --out use/reconstructed --overwrite"
    yield step("use", "reconstruct guided", words, "use/reconstructed")


def predictions(embeddings: str) -> Iterator[Step]:
    """What checkpoints make of the test split, whose embeddings are the old version's."""
    for name in ("linear_prior", "ar_prior", "diffusion_prior", "decoder"):
        out = f"use/predictions/{name}"
        words = f"predict --config configs/{name}.yaml --trainer.default_root_dir={out} --trainer.logger=false"
        words += f" --trainer.limit_predict_batches=1 --ckpt_path {RUN}/{name}/{CHECKPOINT}"
        yield replace(step("use", f"predict {name}", words, out), copies=((embeddings, f"{INPUTS}/embeddings"),))


def reports() -> Iterator[Step]:
    """Numbers, tables and figures of the run."""
    for name, *outputs in (
        ("report", "results.json", "tables.md", "comparison.png"),
        ("tables", "tables"),
        ("figures", "figures"),
        ("export", "release"),
    ):
        yield step("use", name, f"{name} {RUN}", *(f"{RUN}/{output}" for output in outputs))
    yield step("use", "votes", f"votes {RUN} --pairs 4 --grids 0", f"{RUN}/votes")
    words = "table3 --folder {checkout}/experiments/paper --out use/table3.txt"
    yield step("use", "table3", words, "use/table3.txt")


def suite() -> Iterator[Step]:
    """The whole quickstart, made small, from nothing to its report by `unclip reproduce`."""
    words = "reproduce experiments/quickstart/suite.yaml --jobs 1 --run runs/quickstart"
    outputs = ("suite/runs/quickstart",)
    yield Step("suite", "reproduce", tuple(words.split()), outputs, cwd="suite")


def step(part: str, name: str, words: str, *outputs: str) -> Step:
    """A step from the words of its command line."""
    return Step(part, name, tuple(shlex.split(words)), outputs)


def steps(parts: tuple[str, ...], source: str | None) -> list[Step]:
    """The steps of some parts, in their order."""
    made = {"train": train, "use": lambda: use(source), "resume": resume, "suite": suite}
    return [one for part in PARTS if part in parts for one in made[part]()]
