"""Which members of a shard are one pair, where names have dots of their own.

webdataset's rule is that a key ends at the first dot of the base name: `cat.2.jpg` and `cat.jpg` have the key `cat`.
Its members are then parted by what stands between the key and their own extension, here called the middle: "" for
`cat.jpg`, "2" for `cat.2.jpg`, "mask" for `cat.mask.png`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm")
RECORD = "json"

Member = tuple[int, int]
"""Offset and size of a member's content."""


@dataclass
class Group:
    """The members of one webdataset key.

    Attributes:
        parts: middle -> extension (lower case) -> member.
    """

    parts: dict[str, dict[str, Member]] = field(default_factory=dict)

    def add(self, extension: str, member: Member) -> bool:
        """Add the member KEY.`extension`; False if that name is taken."""
        middle, _, own = extension.rpartition(".")
        members = self.parts.setdefault(middle, {})
        if own.lower() in members:
            return False
        members[own.lower()] = member
        return True

    def find(self, middle: str, column: str) -> Member | None:
        """The member KEY.`middle`.`column`; a column may have dots, as "caption.txt"."""
        folder, _, own = _joined(middle, column).rpartition(".")
        return self.parts.get(folder, {}).get(own.lower())

    def names(self) -> list[str]:
        """What stands behind the key, of all members."""
        return [_joined(middle, own) for middle, members in self.parts.items() for own in members]


@dataclass
class Sorted:
    """The pairs and other members of a group.

    Attributes:
        pairs: the middles that have a picture and a caption.
        bare: middles that have a picture and no caption, and belong to no other picture.
        lone: middles that have a caption and no picture.
        unused: extensions of pictures that belong to another one, as "mask.png": they are not trained on.
    """

    pairs: list[str]
    bare: list[str]
    lone: list[str]
    unused: list[str]


def sort_out(group: Group, columns: Sequence[str]) -> Sorted:
    """Tell pairs from what is left over.

    A picture and a caption are a pair if they have the same middle. A picture without a caption may belong to another
    picture, whose middle is shorter: `cat.mask.png` to `cat.jpg`. If the rest of the name begins with a digit
    (`cat.2.jpg`), it is a picture whose caption is missing. It never takes the place or the caption of another.

    Args:
        group: the members of a key.
        columns: extensions of members with captions; `json` always is one.
    """
    pictures = {middle: _pictures(members) for middle, members in group.parts.items()}
    shown = {middle for middle, found in pictures.items() if found}
    told = _told(group, columns, shown)
    lone = told.keys() - shown
    found = Sorted([], [], [], [])
    for middle in dict.fromkeys([*group.parts, *told]):
        above = set(_above(middle))
        own = pictures.get(middle, [])
        found.unused += [_joined(middle, extension) for extension in own[1:]]
        if own and middle in told:
            found.pairs.append(middle)
        elif own and _is_role(middle) and shown & above:
            found.unused.append(_joined(middle, own[0]))
        elif own and not lone & above:  # Else it is told with the lone caption.
            found.bare.append(middle)
        elif middle in lone and not (_is_role(middle) and (shown | told.keys()) & above):
            found.lone.append(middle)
    return found


def picture_of(group: Group, middle: str) -> Member:
    """The picture of a middle that has one: the first in the archive."""
    return group.parts[middle][_pictures(group.parts[middle])[0]]


def _pictures(members: dict[str, Member]) -> list[str]:
    return [own for own in members if own in PICTURES]


def _told(group: Group, columns: Sequence[str], shown: set[str]) -> dict[str, None]:
    """The middles that have captions.

    A json says what a further picture is (`cat.mask.json`), and is a caption only where the picture itself has a json
    and no text.
    """
    texts = dict.fromkeys(middle for column in columns for middle in _captioned(group, column))
    found = dict(texts)
    for middle in _captioned(group, RECORD):
        owner = next((above for above in _above(middle) if above in shown), None)
        if not (_is_role(middle) and owner in texts):
            found[middle] = None
    return found


def _captioned(group: Group, column: str) -> Iterator[str]:
    """The middles for which there is a member KEY.MIDDLE.`column`."""
    folder, _, own = column.rpartition(".")
    for middle, members in group.parts.items():
        if own.lower() not in members:
            continue
        if folder in ("", middle):
            yield "" if folder else middle
        elif middle.endswith(f".{folder}"):
            yield middle.removesuffix(f".{folder}")


def _above(middle: str) -> Iterator[str]:
    """The shorter middles: "a" and "" for "a.b"."""
    while middle:
        middle = middle.rpartition(".")[0]
        yield middle


def _is_role(middle: str) -> bool:
    """Whether the last part says what a member is (mask, depth), rather than which one (2, 0001)."""
    return not middle.rpartition(".")[2][:1].isdigit() and bool(middle)


def _joined(middle: str, own: str) -> str:
    return f"{middle}.{own}" if middle else own
