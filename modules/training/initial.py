"""Fine-tuning: a training that starts from the weights of another one (`init_from` in a stage's YAML)."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from modules.aliases import today
from modules.clip.caption_tokens import MERGES
from modules.clip.folder import CONFIG_FILE, check_config
from modules.clip.origin import KEY, same_clip
from modules.clip.word_tokenizer import VOCABULARY_FILE, WordTokenizer
from modules.errors import InputError
from modules.models.diffusion_model import STATISTICS
from modules.models.exports import weights_file
from modules.networks.reconstruction import UNEXPORTED
from modules.shipped import stage_place
from modules.training.average import PREFIX as AVERAGE
from modules.training.best_average import BestAverage
from modules.training.stage import Stage
from modules.untrusted.pickles import load_plain
from modules.untrusted.reading import printable, read_yaml
from modules.untrusted.weights import check_finite, read_weights

TRAINED = "network."
"""Prefix of the trained network in a checkpoint."""

UNREADABLE = (OSError, SafetensorError, RuntimeError, UnicodeDecodeError, yaml.YAMLError, pickle.UnpicklingError)
"""What readers of weights and configs raise for a damaged file."""

VOCABULARY_KEY = "vocabulary"
"""Of a CLIP's words in a checkpoint."""

MEANING: dict[str, tuple[str, ...]] = {
    "network": ("checkpointing", "dropout", "text_std"),
    "objective": ("weighting", "gamma", "huber_scale", "bound_weight", "timesteps", "timestep_mean", "timestep_std"),
    "embedding": (),
    "codec": (),
    "vision_cfg": (),
    "text_cfg": (),
    "quick_gelu": (),
}
"""Arguments of a stage that say what its weights mean, and which of their settings do not."""


@dataclass(frozen=True)
class Source:
    """Weights that a training starts from.

    Attributes:
        path: of the file.
        tensors: by their names in a stage's export.
        settings: the init_args of the file's config; empty without a config.
        clip: fingerprint of the CLIP on whose embeddings they were trained; None where nothing says.
        words: the vocabulary of a CLIP trained on words; None for others.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    clip: str | None = None
    words: list[str] | None = None


@dataclass(frozen=True)
class Here:
    """The settings of a stage that the file's weights are compared with, beside its tensors.

    Attributes:
        settings: the stage's init_args, as YAML has them.
        clip: fingerprint of the CLIP that made the data's embeddings; None where nothing says.
        words: the data's vocabulary, for a CLIP that is trained on words.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    clip: str | None = None
    words: Sequence[str] | None = None


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a network.

    Attributes:
        taken: names of the tensors that are in both, of one shape.
        problems: a line for each tensor of another shape, each missing one, each unused one, and each setting by which
            the same weights would be another function.
    """

    taken: tuple[str, ...]
    problems: tuple[str, ...]


def source_file(path: str) -> Path:
    """The file of weights that `init_from` names.

    Args:
        path: a stage's run folder or export, below "shipped:NAME" too, or a file.

    Raises:
        InputError: there is none.
    """
    place = stage_place(path)
    file = place if place.is_file() else weights_file(place)
    if not file.is_file():
        raise InputError(
            f"init_from: no weights at {path}: name the folder of a trained stage, as in runs/quickstart/decoder, or a "
            ".safetensors or .ckpt file"
        )
    return file


def read_source(path: str) -> Source:
    """The weights that `init_from` names; of a checkpoint, the averaged ones.

    Raises:
        InputError: there are none, they cannot be read as data alone, or they are not finite.
    """
    file = source_file(path)
    if file.suffix not in (".safetensors", ".ckpt"):
        raise InputError(
            f"init_from: {printable(str(file))} is neither a .safetensors file nor a checkpoint (.ckpt) of `unclip fit`"
        )
    try:
        if file.suffix == ".ckpt":
            return _of_checkpoint(file)
        tensors, _ = read_weights(file)
        settings, clip = _config(file.parent)
        words = WordTokenizer.load(file.parent).words if (file.parent / VOCABULARY_FILE).is_file() else None
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        UnicodeDecodeError,
        yaml.YAMLError,
        pickle.UnpicklingError,
    ) as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise InputError(f"init_from: {file} cannot be read ({reason})") from error
    return Source(file, tensors, settings, clip, words)


def _config(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The init_args that a stage was trained with, or a CLIP's shape; and whose embeddings it was trained on."""
    if (folder / CONFIG_FILE).is_file():
        return {"quick_gelu": False, **check_config(folder)["model_cfg"]}, None
    about = today(read_yaml(folder / "config.yaml")) if (folder / "config.yaml").is_file() else {}
    settings, clip = (about.get("init_args"), about.get(KEY)) if isinstance(about, dict) else (None, None)
    return settings if isinstance(settings, dict) else {}, None if clip is None else str(clip)


def _of_checkpoint(file: Path) -> Source:
    content = load_plain(file, mmap=True)
    state = content.get("state_dict") if isinstance(content, dict) else None
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not isinstance(state, dict) or not named:
        raise InputError(f"init_from: {file} holds no training state: name a checkpoint that `unclip fit` wrote")
    best = BestAverage.tensors_in(content)  # What training would export.
    if best:
        state = {key: value for key, value in state.items() if not key.startswith(AVERAGE)} | best
    first = AVERAGE if any(name.startswith(AVERAGE) for name in state) else TRAINED
    own = {name.removeprefix(first): tensor for name, tensor in state.items() if name.startswith(first)}
    others = {k: v for k, v in state.items() if not k.startswith((AVERAGE, TRAINED, "average."))}
    check_finite(own | others, file)
    clip, words = content.get(KEY), content.get(VOCABULARY_KEY)
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise InputError(f"init_from: {file}: its vocabulary is no list of words: name a checkpoint of `unclip fit`")
    return Source(file, own | others, {}, None if clip is None else str(clip), words)


def compare(source: Source, module: nn.Module, here: Here = Here()) -> Fit:
    """How a file's tensors fit a stage. The statistics of the score do not count: training estimates them anew.

    Args:
        source: what `read_source` gives.
        module: the stage, whose network has its weights.
        here: its settings and its data.
    """
    wanted = _wanted(module)
    own = getattr(getattr(module, "_model", None), "reads", None) == "gpt2"
    held = {name: tensor for name, tensor in source.tensors.items() if not name.startswith((STATISTICS, UNEXPORTED))}
    wanted |= {MERGES: held[MERGES]} if own and MERGES in held else {}  # They come with the weights, of any length.
    both = [name for name in wanted if name in held]
    taken = tuple(name for name in both if held[name].shape == wanted[name].shape)
    lines = [
        f"another shape: {name} is {_shape(held[name])} in the file and {_shape(wanted[name])} here"
        for name in both
        if name not in taken
    ]
    lines += [f"missing: {name} {_shape(wanted[name])} is not in the file" for name in wanted if name not in held]
    lines += [f"unused: {printable(name)} {_shape(held[name])} of the file" for name in held if name not in wanted]
    for key, ignored in MEANING.items():
        lines += changes_of(today(source.settings.get(key)), today(here.settings.get(key)), key, ignored)
    if source.clip is not None and here.clip is not None and not same_clip(source.clip, here.clip):
        lines.append(f"another CLIP: trained on embeddings of {source.clip}, the data hold those of {here.clip}")
    if source.words is not None and here.words is not None and list(source.words) != list(here.words):
        lines.append("another vocabulary: the file's tokens are other words than those of the data")
    return Fit(taken, tuple(lines))


def _wanted(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that an export of the stage holds, but for what its training finds out about the score."""
    network = getattr(module, "network", None)
    if not isinstance(network, nn.Module):
        raise InputError(f"init_from: {type(module).__name__} has no network to give weights to")
    beside: dict[str, Tensor] = getattr(getattr(module, "_model", None), "tensors", dict)()
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(UNEXPORTED)}
    return {**own, **{k: v for k, v in beside.items() if not k.startswith(STATISTICS)}}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def changes_of(theirs: Any, ours: Any, where: str, ignored: tuple[str, ...]) -> Iterator[str]:
    """A line for each setting that both have with different values; a setting that one lacks has its default there."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() & ours.keys() - set(ignored)):
            name = where if key == "init_args" else f"{where}.{key}"
            yield from changes_of(theirs[key], ours[key], name, ignored)
    elif theirs is not None and ours is not None and _plain(theirs) != _plain(ours):
        yield f"another meaning: {where} was {printable(str(theirs))}, here it is {printable(str(ours))}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def start_from(module: nn.Module, source: Source, fit: Fit) -> None:
    """Load the tensors of a file that fit into a stage's network, its average and its other tensors.

    Raises:
        InputError: none fits.
    """
    if not fit.taken:
        raise InputError(f"init_from: no tensor of {source.path} is one of this config's network")
    networks = [module.network, module.averaged] if isinstance(module, Stage) else [module.network]
    for network in networks:
        assert isinstance(network, nn.Module)
        for name, tensor in network.state_dict().items():
            if name in fit.taken:
                tensor.copy_(source.tensors[name])
    if isinstance(module, Stage):
        module.take_tensors({name: source.tensors[name].clone() for name in fit.taken})
        module.initial = fit.taken
