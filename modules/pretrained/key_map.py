"""Their tensors <-> ours: a list of entries, each of which can be gone through in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.errors import InputError
from modules.untrusted.reading import printable

Shapes = Mapping[str, torch.Size]
"""The shape of each tensor by name."""


@dataclass(frozen=True)
class Entry:
    """Some of their tensors which are some of ours.

    Attributes:
        theirs, ours: names.
        read: theirs -> ours, each in the order of its names.
        write: ours -> theirs.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    write: Callable[[Sequence[Tensor]], Sequence[Tensor]]


def same(theirs: str, ours: str) -> Entry:
    """One tensor of the same numbers and shape."""
    return Entry((theirs,), (ours,), list, list)


def layer(theirs: str, ours: str) -> list[Entry]:
    """Weight and bias."""
    return [same(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


def reshaped(theirs: str, ours: str, their_shape: Sequence[int], our_shape: Sequence[int]) -> Entry:
    """One tensor of the same numbers in the same order."""
    return Entry(
        (theirs,),
        (ours,),
        lambda found: [found[0].reshape(tuple(our_shape))],
        lambda found: [found[0].reshape(tuple(their_shape))],
    )


def transposed(theirs: str, ours: str) -> Entry:
    """A matrix."""
    return Entry((theirs,), (ours,), lambda found: [found[0].T], lambda found: [found[0].T])


def stacked(theirs: Sequence[str], ours: str, tail: Sequence[int] = ()) -> Entry:
    """Theirs one below the other are ours, whose shape goes on with `tail`, all of it 1, that theirs lack."""
    count = len(theirs)
    return Entry(
        tuple(theirs),
        (ours,),
        lambda found: [torch.cat(list(found)).reshape(*torch.cat(list(found)).shape, *tail)],
        lambda found: list(found[0].reshape(found[0].shape[: found[0].ndim - len(tail)]).chunk(count)),
    )


def by_head(theirs: str, ours: str, heads: int, parts: int, their_tail: int = 0, our_tail: int = 0) -> Entry:
    """Rows in chunks of one head (q k v of the first, then of the second) are rows in chunks of q, k and v.

    Args:
        theirs, ours: names.
        heads, parts: numbers of heads, and of chunks in each: 3 of q k v, 2 of k v.
        their_tail, our_tail: how many dimensions of 1 end a matrix, as a convolution's do.
    """

    def swap(x: Tensor, first: int, second: int) -> Tensor:
        return x.unflatten(0, (first, second, -1)).transpose(0, 1).flatten(0, 2)

    def with_tail(x: Tensor, old: int, new: int) -> Tensor:
        return x if x.ndim == 1 else x.reshape(*x.shape[: x.ndim - old], *[1] * new)

    return Entry(
        (theirs,),
        (ours,),
        lambda found: [with_tail(swap(found[0], heads, parts), their_tail, our_tail)],
        lambda found: [with_tail(swap(found[0], parts, heads), our_tail, their_tail)],
    )


def prefixed(entries: Sequence[Entry], theirs: str, ours: str) -> list[Entry]:
    """The entries with these before all names."""
    return [
        Entry(tuple(theirs + name for name in e.theirs), tuple(ours + name for name in e.ours), e.read, e.write)
        for e in entries
    ]


def to_ours(entries: Sequence[Entry], tensors: Mapping[str, Tensor], shapes: Shapes, source: str) -> dict[str, Tensor]:
    """Their tensors as ours: each of theirs is used, and each of `shapes` is given.

    Args:
        entries: the map.
        tensors: theirs.
        shapes: the shapes of all tensors of our network.
        source: names where they come from, in messages.

    Raises:
        InputError: names a tensor that is missing, that has no place, or whose shape is another.
    """
    wanted = [name for entry in entries for name in entry.theirs]
    _complete(wanted, tensors, source, "has no tensor", "that the model needs")
    _complete(list(tensors), dict.fromkeys(wanted, 0), source, "holds a tensor", "that the model has no place for")
    found: dict[str, Tensor] = {}
    for entry in entries:
        try:
            made = entry.read([tensors[name] for name in entry.theirs])
        except RuntimeError as error:
            raise InputError(f"{source}: {entry.theirs[0]} has another shape than it should ({error})") from error
        for name, tensor in zip(entry.ours, made, strict=True):
            if name not in shapes or tensor.shape != shapes[name]:
                wanted_shape = tuple(shapes[name]) if name in shapes else "none"
                raise InputError(
                    f"{source}: {', '.join(map(printable, entry.theirs))}: the shape is {tuple(tensor.shape)} as {name}"
                    f", but by the other tensors the model has {wanted_shape} there"
                )
            found[name] = tensor.contiguous()
    _complete(list(shapes), found, source, "gives no", "of the model")
    return found


def to_theirs(entries: Sequence[Entry], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors as theirs.

    Raises:
        InputError: one of ours that the entries name is missing.
    """
    found: dict[str, Tensor] = {}
    for entry in entries:
        lost = [name for name in entry.ours if name not in tensors]
        if lost:
            raise InputError(f"the stage has no {lost[0]}, which the other layout needs")
        made = entry.write([tensors[name] for name in entry.ours])
        found |= {name: tensor.contiguous() for name, tensor in zip(entry.theirs, made, strict=True)}
    return found


def _complete(wanted: Sequence[str], there: Mapping[str, object], source: str, lacks: str, why: str) -> None:
    left = [name for name in wanted if name not in there]
    if left:
        more = f" (and {len(left) - 1} more: {', '.join(map(printable, left[1:4]))})" if left[1:] else ""
        raise InputError(f"{source} {lacks} {printable(left[0])} {why}{more}")
