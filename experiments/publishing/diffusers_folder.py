"""`unclip export --format diffusers`: a run's stages as a folder of diffusers' layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eval.files import replacing_folder
from modules.clip.folder import CONFIG_FILE, check_config
from modules.clip.frozen import WEIGHTS_FILE
from modules.clip.lean_import import import_open_clip
from modules.errors import InputError
from modules.models.decoder import DecoderModel
from modules.models.exports import export_folder, is_export, load_model, write_weights
from modules.models.licences import CARD, attribution_of, joined, licence_of
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.upsampler import UpsamplerModel
from modules.pretrained import to_diffusers
from modules.pretrained.to_diffusers import Component
from modules.untrusted.reading import printable, read_json
from modules.untrusted.weights import read_weights

INDEX = "model_index.json"
STAGES = ("clip", "diffusion_prior", "decoder", "upsampler")

CLASSES = {
    "prior": ["diffusers", "PriorTransformer"],
    "decoder": ["diffusers", "UNet2DConditionModel"],
    "text_proj": ["unclip", "UnCLIPTextProjModel"],
    "super_res_first": ["diffusers", "UNet2DModel"],
    "super_res_last": ["diffusers", "UNet2DModel"],
    "prior_scheduler": ["diffusers", "UnCLIPScheduler"],
    "decoder_scheduler": ["diffusers", "UnCLIPScheduler"],
    "super_res_scheduler": ["diffusers", "UnCLIPScheduler"],
    "scheduler": ["diffusers", "UnCLIPScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}
"""The library and the class of each component, as model_index.json names them."""


def export_diffusers(run: Path, out: Path, overwrite: bool = False) -> list[str]:
    """Write the run's CLIP, diffusion prior, decoder and upsampler; returns the components' names.

    With a decoder it is a folder for UnCLIPPipeline and UnCLIPImageVariationPipeline, otherwise for
    KandinskyPriorPipeline.

    Raises:
        InputError: there is neither prior nor decoder, a stage has no place there, or `out` is in the way.
    """
    there = [name for name in STAGES if (run / name).is_dir() and is_export(run / name)]
    if not {"diffusion_prior", "decoder"} & set(there):
        raise InputError(f"{run} holds no trained diffusion_prior or decoder, which are what diffusers has classes for")
    if out.exists() and not (overwrite and (out / INDEX).exists()):
        way = "--overwrite replaces it" if (out / INDEX).exists() else "it is not one of this command's: name another"
        raise InputError(f"{out} exists; {way}")
    names: list[str] = []
    with replacing_folder(out) as folder:
        for stage in there:
            for name, component in _components(run / stage, stage, "decoder" in there).items():
                _write(folder / name, component)
                names.append(name)
        if "clip" in there:
            names += _clips_own(folder, export_folder(run / "clip"), "decoder" in there)
        _write_index(folder, names, "decoder" in there)
        _write_card(folder, run, there)
    return names


def _components(folder: Path, stage: str, whole: bool) -> dict[str, Component]:
    if stage == "clip":
        export = export_folder(folder)
        return to_diffusers.clip(check_config(export)["model_cfg"], read_weights(export / WEIGHTS_FILE)[0])
    if stage == "decoder":
        return to_diffusers.decoder(load_model(folder, DecoderModel).model)
    if stage == "upsampler":
        return to_diffusers.upsampler(load_model(folder, UpsamplerModel).model)
    found = to_diffusers.prior(load_model(folder, DiffusionPriorModel).model)
    return found if whole else {"prior": found["prior"], "scheduler": found["prior_scheduler"]}


def _write(folder: Path, component: Component) -> None:
    folder.mkdir()
    config = {**component.config, "_diffusers_version": "0.30.0"}
    if component.tensors is None:
        _json(folder / "scheduler_config.json", config)
        return
    ours = "_class_name" in component.config
    _json(folder / "config.json", config if ours else component.config)
    write_weights(component.tensors, folder / ("diffusion_pytorch_model.safetensors" if ours else "model.safetensors"))


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _clips_own(folder: Path, clip: Path, whole: bool) -> list[str]:
    """The tokeniser and the image processor of the CLIP; returns their names."""
    content = read_json(clip / CONFIG_FILE)
    if content.get("tokenizer") == "words":
        raise InputError("clip: its tokens are words of its own, for which transformers has no tokeniser")
    own, length = content.get("preprocess_cfg") or {}, content["model_cfg"]["text_cfg"].get("context_length", 77)
    _tokenizer(folder / "tokenizer", length)
    name = "feature_extractor" if whole else "image_processor"
    (folder / name).mkdir()
    _json(folder / name / "preprocessor_config.json", processor(own))
    return ["tokenizer", name]


def processor(own: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json of transformers' CLIPImageProcessor, for an open_clip preprocess_cfg.

    Raises:
        InputError: the longer side is brought to the size, which CLIPImageProcessor cannot do.
    """
    mode = own.get("resize_mode") or "shortest"
    if mode == "longest":
        raise InputError("clip: transformers' CLIPImageProcessor has no resize_mode longest; export without --format")
    side = own.get("size", 224)
    side = side[0] if isinstance(side, list) else side
    square = {"height": side, "width": side}
    found = {
        "image_processor_type": "CLIPImageProcessor",
        "size": square if mode == "squash" else {"shortest_edge": side},
        "crop_size": square,
        "image_mean": own.get("mean"),
        "image_std": own.get("std"),
        "resample": 2 if own.get("interpolation") == "bilinear" else 3,  # Pillow's numbers.
    }
    return {key: x for key, x in found.items() if x is not None}


def _tokenizer(folder: Path, length: int) -> None:
    """CLIP's byte pairs, which open_clip ships, as transformers' CLIPTokenizer has them; padding is token 0, "!"."""
    import_open_clip()
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe()) as file:
        merges = file.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    _json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    about = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    about |= {"pad_token": "!", "tokenizer_class": "CLIPTokenizer"}
    _json(folder / "tokenizer_config.json", {**about, "model_max_length": length})


def _write_card(folder: Path, run: Path, stages: list[str]) -> None:
    """README.md with the licences of released weights, and whom training data ask to name; none, if there are none."""
    found = {stage: licence for stage in stages if (licence := licence_of(export_folder(run / stage))) is not None}
    whom = joined(attribution_of(export_folder(run / stage)) for stage in stages)
    if not found and whom is None:
        return
    names = {licence.name for licence in found.values()}
    front = {"license": names.pop() if len(names) == 1 else "other", "library_name": "diffusers"}
    lines = [f"# {printable(run.resolve().name)}", "", "Written by `unclip export --format diffusers`.", ""]
    lines += ["## Licence", "", *(f"- {stage}, from {own.of}: {own.text}" for stage, own in found.items())]
    lines += [] if whom is None else [f"- training data: {whom}"]
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n" + "\n".join(lines) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")


def _write_index(folder: Path, names: list[str], whole: bool) -> None:
    pipeline = "UnCLIPPipeline" if whole else "KandinskyPriorPipeline"
    index = {name: CLASSES[name] for name in names}
    _json(folder / INDEX, {"_class_name": pipeline, "_diffusers_version": "0.30.0", **index})
