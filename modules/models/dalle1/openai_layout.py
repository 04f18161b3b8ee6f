"""OpenAI's released dVAE: from the names of its tensors to this project's (DALL-E 1, appendix A.1).

The released files are pickled modules, which run code when they are read; only state dicts are taken here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from modules.errors import InputError
from modules.networks.dalle1.dvae import DVAENetwork
from modules.networks.on_meta import on_meta
from modules.untrusted.pickles import load_plain
from modules.untrusted.weights import check_finite, check_tensors, read_weights

BLOCK = re.compile(r"blocks\.group_(\d+)\.block_(\d+)\.(?:(id_path)|res_path\.conv_(\d+))\.([wb])")
ENDS = {"blocks.input": "input", "blocks.output.conv": "output"}
KINDS = {"w": "weight", "b": "bias"}

CONVERT = (
    'python -c "import torch; from dall_e import load_model; from safetensors.torch import save_file; '
    "[save_file(load_model(f'{n}.pkl', torch.device('cpu')).state_dict(), f'{n}.safetensors') "
    "for n in ('encoder', 'decoder')]\""
)
"""What makes state dicts of the released files, where the package dall_e and the files are trusted."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that follow from the shapes of the released tensors; the arguments of DVAENetwork."""

    num_codes: int
    width: int
    multipliers: list[int]
    blocks: int
    first_width: int
    channels: int

    def arguments(self, image_size: int) -> dict[str, object]:
        """The arguments of DVAENetwork for pictures of this side."""
        return {"image_size": image_size, **vars(self)}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's or a decoder's state dict with this project's names.

    Raises:
        InputError: a name that is not in the released layout.
    """
    return {_name(key): tensor for key, tensor in state.items()}


def _name(key: str) -> str:
    stem, _, kind = key.rpartition(".")
    if stem in ENDS and kind in KINDS:
        return f"{ENDS[stem]}.{KINDS[kind]}"
    found = BLOCK.fullmatch(key)
    if found is None:
        raise InputError(f"{key!r} is no tensor of OpenAI's dVAE: give the state dicts of its encoder and decoder")
    group, block, skip, layer, kind = found.groups()
    part = "skip" if skip else f"branch.{int(layer) - 1}"
    return f"groups.{int(group) - 1}.{int(block) - 1}.{part}.{KINDS[kind]}"


def sizes_of(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> Sizes:
    """The network's sizes, from tensors with this project's names.

    Raises:
        InputError: tensors are missing.
    """
    try:
        width, channels = encoder["input.weight"].shape[:2]
        places = [re.fullmatch(r"groups\.(\d+)\.(\d+)\.branch\.3\.weight", name) for name in encoder]
        groups = {(int(found[1]), int(found[2])): found[0] for found in places if found}
        last = [encoder[groups[group, 0]].shape[0] for group in range(1 + max(group for group, _ in groups))]
        return Sizes(
            num_codes=encoder["output.weight"].shape[0],
            width=width,
            multipliers=[side // width for side in last],
            blocks=1 + max(block for _, block in groups),
            first_width=decoder["input.weight"].shape[0],
            channels=channels,
        )
    except KeyError as error:
        raise InputError(
            f"these are not the state dicts of OpenAI's encoder and decoder: {error} is missing"
        ) from error
    except (ValueError, IndexError, ZeroDivisionError) as error:  # No blocks, or a tensor without sides.
        raise InputError(f"these are not the state dicts of OpenAI's encoder and decoder ({error})") from error


def from_openai(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], image_size: int = 256
) -> tuple[DVAENetwork, Sizes]:
    """The network that the released state dicts are of, and its sizes; the tensors are the files' own, in float32.

    Raises:
        InputError: a tensor is missing, extra or of another shape; names it. Or a side that the network cannot take.
    """
    parts = renamed(encoder), renamed(decoder)
    sizes = sizes_of(*parts)
    try:
        with on_meta():
            network = DVAENetwork(**sizes.arguments(image_size))  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"the dVAE of these state dicts: {error}") from error
    state = {
        f"{part}.{name}": tensor.float()
        for part, own in zip(("encoder", "decoder"), parts, strict=True)
        for name, tensor in own.items()
    }
    check_tensors(dict(network.state_dict()), state, Path("the state dicts"))
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False), sizes


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a state dict that torch has saved.

    Raises:
        InputError: the file is missing or damaged, or holds a pickled module; says how to convert that.
    """
    try:
        if path.suffix == ".safetensors":
            return read_weights(path)[0]
        content = load_plain(path)
    except InputError:
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path} ({error})") from error
    except Exception as error:  # torch's readers raise whatever the file makes them.
        raise InputError(
            f"{path} is no state dict; OpenAI's own files are pickled modules, which run code when they are read and "
            f"are not read here. Where you trust them, convert them once: {CONVERT}"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: convert it by {CONVERT}")
    tensors = {str(name): tensor for name, tensor in content.items()}
    check_finite(tensors, path)
    return tensors
