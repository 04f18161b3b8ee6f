"""Emoji in many styles: the same things drawn by several hands, from Iconify's packages."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.base import SPLITS, at_least, check_split
from datamodules.captions import CaptionConfig
from datamodules.emoji import split_of
from datamodules.rendered import augmentation, iconify, openmoji
from datamodules.rendered.cache import digest, hash_of, source_hash
from datamodules.rendered.pairs import PairDataModule, Records
from modules.errors import InputError

FIELDS = ("name", "a_name", "style")


@dataclass(frozen=True)
class StyledDrawing:
    """One drawing of one set.

    Attributes:
        icon: what is drawn.
        prefix: of its set.
        style: of its set, as captions name it.
        name: in lower-case words: "bridge at night".
        family: what all its variants and their drawings in other styles share.
        toned: whether it is a skin-tone variant.
    """

    icon: iconify.Icon
    prefix: str
    style: str
    name: str
    family: str
    toned: bool


class EmojiStylesDataModule(PairDataModule):
    """Drawings of several emoji sets on white, with captions of their name and style: "a bridge at night, in the Noto
    style".

    A hash of an emoji's code points, less skin tone, gender and direction, decides the split, as for OpenMoji's alone
    (`datamodules.emoji`): all drawings of an emoji, in all styles, are in the same split. Within a split the order is
    that of another hash, so a smaller split is a fair sample of the whole.

    Args:
        packages: a folder of Iconify packages as `unclip data download-emoji` makes it, or a list of them.
        image_size: side of the images in pixels; the drawings are vectors, so any will do.
        batch_size: pairs a batch and process, in training and in evaluation.
        train_size: at most so many training drawings; null for all.
        val_size: at most so many validation pairs; null for all.
        test_size: at most so many test pairs; null for all.
        embeddings: folder written by `unclip embed` for the same data; its rows are attached to every batch.
        cache_dir: folder of the rendered images, shared by all stages; null renders whenever an image is asked for.
        seed: of the training order; the splits do not depend on it.
        num_workers: loader processes; 0 is fastest while the images fit into memory.
        skin_tones: false leaves out the skin-tone variants.
        caption: what captions are made from: {name} "bridge at night", {a_name} "a bridge at night", {style} "Noto".
            A CLIP trained on words (`tokenizer: words`) parts them by spaces only, so give it no punctuation.
        train_split: "train", or "unrestricted" to train on the drawings of all three splits, for models that judge.
        hold_out: this share of the training split's emoji that several sets have lose one drawing, of one style, to the
            test split: a combination of thing and style that training never shows, both of which it shows apart.
        test_split: "things" (emoji that training shows in no style) or "combinations" (those held out).
        min_count: captions of training drawings that a word occurs in, at least, to be in the vocabulary.
        captions: shares and further captions of the pairs.
        training_packages: packages of sets that only training shows, beside those of `packages`: a folder or a list,
            too. Of such a set, training shows the things that `packages` shows in training (with train_split
            "unrestricted": in any split). Captions take the things' names from `packages`. No combination with such a
            set's style is held out.
        augmented_copies: of each training drawing, this many copies follow in the training split: mirrored (half of
            them), turned, scaled and shifted (`datamodules.rendered.augmentation`), each always the same way, with the
            drawing's caption. z_i of a copy says how it was changed, so a decoder learns more of what z_i means. A CLIP
            takes a copy and its drawing for a wrong pair if both are in a batch. Not with `captions.added`.

    Raises:
        InputError: packages that are missing or damaged, or named twice; a caption without {name}, a size below its
            bound or beyond what there is, an embeddings folder of other data, a cache that can't be written.
    """

    def __init__(
        self,
        packages: str | list[str],
        image_size: int = 32,
        batch_size: int = 64,
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        embeddings: str | None = None,
        cache_dir: str | None = "runs/cache",
        seed: int = 0,
        num_workers: int = 0,
        skin_tones: bool = False,
        caption: str = "{a_name}, in the {style} style",
        train_split: Literal["train", "unrestricted"] = "train",
        min_count: int = 2,
        hold_out: float = 0.0,
        test_split: Literal["things", "combinations"] = "things",
        captions: CaptionConfig = CaptionConfig(),
        training_packages: str | list[str] | None = None,
        augmented_copies: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, embeddings, cache_dir, seed, num_workers)
        captions.refuse_columns("emoji")
        self.caption_config = captions
        self.packages, self.training_packages = packages, training_packages
        self.sizes = dict(zip(SPLITS, (train_size, val_size, test_size), strict=True))
        for split, size in self.sizes.items():
            at_least(1, f"{split}_size", 1 if size is None else size)
        self.skin_tones, self.caption = skin_tones, _checked(caption)
        self.unrestricted = train_split == "unrestricted"
        self.min_count = at_least(1, "min_count", min_count)
        if not 0 <= hold_out <= 1:
            raise InputError(f"hold_out is {hold_out}: give a share from 0 to 1")
        if test_split == "combinations" and hold_out == 0:
            raise InputError("test_split is combinations, but hold_out is 0: give hold_out a share, such as 0.2")
        self.hold_out, self.test_split = hold_out, test_split
        self.augmented_copies = at_least(0, "augmented_copies", augmented_copies)
        if augmented_copies and captions.added:
            raise InputError("captions.added has captions of drawings alone: set augmented_copies to 0")
        self._sets: dict[str, list[iconify.IconSet]] = {}
        self._drawings: dict[str, list[StyledDrawing]] = {}

    @property
    def sets(self) -> list[iconify.IconSet]:
        """The sets that all splits show, by prefix; read when first asked for."""
        return self._read("packages")

    @property
    def training_sets(self) -> list[iconify.IconSet]:
        """The sets that only training shows, by prefix; read when first asked for."""
        found = self._read("training_packages")
        for twice in sorted({one.prefix for one in found} & {one.prefix for one in self.sets}):
            raise InputError(f"training_packages: the set {twice!r} is in packages, too; name it in one of the two")
        return found

    def _read(self, argument: str) -> list[iconify.IconSet]:
        if argument not in self._sets:
            named = getattr(self, argument) or []
            paths = iconify.packages(Path(named).expanduser()) if isinstance(named, str) else named
            found = {found.prefix: found for found in map(iconify.read_set, paths)}  # Of two versions, the later name.
            self._sets[argument] = [found[prefix] for prefix in sorted(found)]
        return self._sets[argument]

    @property
    def attribution(self) -> str:
        return "; ".join(found.attribution for found in [*self.sets, *self.training_sets])

    def drawings(self, split: str) -> list[StyledDrawing]:
        """The split's drawings, by index."""
        if check_split(split) not in self._drawings:
            self._drawings[split] = self._choose(split)
        return self._drawings[split]

    def records(self, split: str) -> Records:
        """Captions by index: those of all drawings, then, in training, those of all first copies, and so on."""
        captions = [caption_of(drawing, self.caption) for drawing in self.drawings(split)]
        return Records(captions * (1 + self.copies(split)), None)

    def copies(self, split: str) -> int:
        """Augmented copies of a drawing in a split."""
        return self.augmented_copies if split == "train" else 0

    def renderer(self, split: str, size: int) -> Callable[[int], np.ndarray]:
        return partial(_render, [drawing.icon for drawing in self.drawings(split)], size)

    def source_key(self, split: str) -> list[str]:
        names = digest([[drawing.prefix, drawing.icon.name] for drawing in self.drawings(split)])
        sets = [*self.sets, *(self.training_sets if split == "train" else [])]
        versions = [f"{found.prefix} {found.version}" for found in sets]
        copies = [f"{self.copies(split)} copies", source_hash(augmentation)] if self.copies(split) else []
        return ["emoji_styles", split, names, *versions, openmoji.renderer_version(), *copies]

    def texts(self, split: str) -> Sequence[str]:
        """All captions of a split's drawings; copies, which have the same, do not count."""
        found = super().texts(split)
        return found[: len(self.drawings(split))] if self.copies(split) else found

    def vocabulary(self, min_count: int | None = None) -> list[str]:
        return super().vocabulary(self.min_count if min_count is None else min_count)

    def _choose(self, split: str) -> list[StyledDrawing]:
        drawings = [d for d in drawings_of(self.sets) if self.skin_tones or not d.toned]
        held = held_out_combinations(drawings, self.hold_out)
        if split == "train":
            drawings += same_things(drawings_of(self.training_sets), drawings)
        if self.unrestricted and split == "train":
            chosen = drawings
        elif split == "test" and self.test_split == "combinations":
            chosen = [d for d in drawings if (d.family, d.prefix) in held]
        else:
            chosen = [d for d in drawings if split_of(d.family) == split and (d.family, d.prefix) not in held]
        chosen.sort(key=lambda drawing: hash_of(f"{drawing.prefix} {drawing.icon.name}"))
        size = self.sizes[split]
        if size is not None and size > len(chosen):
            raise InputError(f"{split}_size is {size}, but there are {len(chosen)} drawings in the {split} split")
        return chosen[:size]


def held_out_combinations(drawings: list[StyledDrawing], share: float) -> set[tuple[str, str]]:
    """(family, prefix) of one style for about this share of the training split's families that have several."""
    styles: dict[str, set[str]] = defaultdict(set)
    for drawing in drawings:
        if split_of(drawing.family) == "train":
            styles[drawing.family].add(drawing.prefix)
    held = set()
    for family, prefixes in styles.items():
        number = hash_of(f"held out {family}")
        if len(prefixes) > 1 and (number >> 32) % 10_000 < share * 10_000:
            held.add((family, sorted(prefixes)[number % len(prefixes)]))
    return held


def same_things(drawings: list[StyledDrawing], known: list[StyledDrawing]) -> list[StyledDrawing]:
    """The drawings of things that `known` has, with the family and the name that they have there.

    Names match if they have the same letters and digits: older sets write "alarmclock". "flag for chad" matches "flag
    of chad", too. A skin tone is part of a name, so a toned variant is found only if `known` has it.
    """
    things = {_letters(drawing.name): drawing for drawing in reversed(known)}  # Of several, the first.
    found = ((drawing, things.get(_letters(drawing.name))) for drawing in drawings)
    return [replace(drawing, name=thing.name, family=thing.family) for drawing, thing in found if thing is not None]


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", re.sub("^flag (for|of) ", "flag ", name))


def drawings_of(sets: list[iconify.IconSet]) -> list[StyledDrawing]:
    """The drawings of several sets; those of one emoji are one family whatever the set calls it."""
    return [_styled(icon, found) for found in sets for icon in found.icons]


def _styled(icon: iconify.Icon, found: iconify.IconSet) -> StyledDrawing:
    name = openmoji.plain_words(icon.name)
    if openmoji.is_country(icon.points) and name.startswith("flag "):
        name = f"flag of {name.removeprefix('flag ').removeprefix('of ')}"
    family = openmoji.family_of(icon.points) if icon.points else name
    return StyledDrawing(icon, found.prefix, found.style, name, family, openmoji.tones_of(icon.points) > 0)


def caption_of(drawing: StyledDrawing, template: str) -> str:
    """ "a bridge at night, in the Noto style"."""
    return template.format(name=drawing.name, a_name=with_article(drawing.name), style=drawing.style)


def with_article(name: str) -> str:
    """A name as the beginning of a sentence has it: "an owl", "scissors"; plurals and numbers have no article."""
    noun = name.split(" ")[0] if " of " in name else name.split(" ")[-1]
    plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    if plural or not name[:1].isalpha():
        return name
    vowel = name[0] in "aeiou" and not name.startswith(("uni", "use", "eu", "one"))
    return f"{'an' if vowel else 'a'} {name}"


def _checked(template: str) -> str:
    """The template, if its fields are those that there are."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise InputError(f"caption {template!r}: {error}") from error
    if not fields & {"name", "a_name"} or not fields <= set(FIELDS):
        raise InputError(f"caption {template!r}: give it {{name}} or {{a_name}}, and {{style}} if wanted")
    return template


def _render(icons: list[iconify.Icon], size: int, index: int) -> np.ndarray:
    copy, drawing = divmod(index, len(icons))
    icon = icons[drawing]
    return iconify.render(augmentation.copy_of(icon, copy) if copy else icon, size)
