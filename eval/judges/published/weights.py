"""Weights that others published, read as data: safetensors, or pickles that hold tensors and nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from eval.errors import InputError
from eval.untrusted import check_finite, check_header, load_plain

WRAPPINGS = ("state_dict", "model", "module")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; of a checkpoint that wraps them, what it wraps.

    Raises:
        InputError: missing, damaged, a pickle that holds code, no tensors, or some that are not finite.
    """
    try:
        if path.suffix == ".safetensors":
            check_header(path)
            content: object = load_file(path)
        else:
            content = load_plain(path)
        for key in WRAPPINGS:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        tensors = (
            {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
        )
        if not tensors:
            raise ValueError("it holds no tensors by name")
        check_finite(tensors, path)
    except Exception as error:  # pickle, zip, safetensors and the system each raise their own kinds
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"cannot read the weights {path} ({reason}); download the file again") from error
    return {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, ignore: tuple[str, ...] = ()) -> nn.Module:
    """The network with the tensors of a file as its weights, in evaluation mode.

    Args:
        network: may be on the meta device.
        state: of the file.
        path: it, for errors.
        ignore: beginnings of names that the file may hold beside the network's.

    Raises:
        InputError: a tensor is missing, of another shape, or nobody's.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise InputError(f"{path} lacks {name}: it is another network's file, or of another version")
        if state[name].shape != tensor.shape:
            found, expected = (tuple(t.shape) for t in (state[name], tensor))
            raise InputError(
                f"{path}: {name} has the shape {found}, {expected} is needed: it is another network's file"
            )
    extra = [name for name in state if name not in wanted and not name.startswith(ignore)]
    if extra:
        raise InputError(f"{path} holds {extra[0]}, which the network does not have: it is another network's file")
    network.load_state_dict({name: state[name] for name in wanted}, assign=True)
    return network.eval().requires_grad_(False)


def depth(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers a file has whose names begin with prefix + number."""
    numbers = {name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)}
    return len([number for number in numbers if number.isdecimal()])
