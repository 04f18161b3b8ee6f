"""Parses captions of rendered scenes: what a caption claims, whoever wrote it.

The inverse of `scenes.caption_of` and of the channels in `channels`; of other texts, such as a captioner's, it takes
the words that it knows. Nothing is guessed: an object without a shape's name has None for its shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from datamodules.rendered.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES

ADJECTIVES = {"size": SIZES, "colour": COLOURS}
GRAMMAR = {"a", "an", "one", "two", "and", "on", "of", "with"}
NOUNS = {**{shape: shape for shape in SHAPES}, "shape": None}
_NOTHING: dict[str, str | None] = {"shape": None, "colour": None, "size": None}
FIRST_WORDS = {relation.split()[0]: relation for relation in RELATIONS}


class Claims(NamedTuple):
    """The claims of a caption.

    Attributes:
        said: in the form of `scenes.describe`, None where it says nothing.
        unrelated: words that say nothing of a scene.
    """

    said: dict[str, Any]
    unrelated: list[str]


def read(caption: str) -> Claims:
    """What a caption claims about its picture. Case and punctuation do not matter."""
    words = [word.strip(".,;:!?") for word in caption.lower().split()]
    two = words[:2] == ["two", "shapes"] or "two shapes" in " ".join(words)
    if two:
        place = next(k for k in range(len(words)) if words[k : k + 2] == ["two", "shapes"])
        del words[place : place + 2]
    background, words = _background(words)
    objects: list[dict[str, str | None]] = []
    relations: list[str] = []
    unrelated: list[str] = []
    one = False
    open_: dict[str, str | None] = {}
    skip = 0
    for k, word in enumerate(words):
        if skip:
            skip -= 1
        elif word in NOUNS:
            objects.append({**_NOTHING, "shape": NOUNS[word], **open_})
            open_ = {}
        elif (kind := _adjective(word)) is not None:
            open_[kind] = word
        elif (relation := _relation(words[k : k + 2])) is not None:
            relations.append(relation)
            skip = len(relation.split()) - 1
        elif word == "one":
            one = True
        elif word not in GRAMMAR and word:
            unrelated.append(word)
    if open_:  # Its noun is missing.
        objects.append({**_NOTHING, **open_})
    related = len(objects) == 2 and len(relations) == 1
    count = 2 if two else (len(objects) if len(objects) > 1 else (1 if one else None))
    said = {
        "objects": objects,
        "background": background,
        "relation": relations[0] if related else None,
        "count": count,
    }
    return Claims(said, unrelated)


def _background(words: list[str]) -> tuple[str | None, list[str]]:
    """The background that "... on a tan background" names, and the words without it."""
    for k, word in enumerate(words):
        if word == "background" and k and words[k - 1] in BACKGROUNDS:
            start = k - 1
            if words[max(0, start - 2) : start] == ["on", "a"]:
                start -= 2
            return words[k - 1], words[:start] + words[k + 1 :]
    return None, words


def _adjective(word: str) -> str | None:
    return next((kind for kind, values in ADJECTIVES.items() if word in values), None)


def _relation(words: list[str]) -> str | None:
    relation = FIRST_WORDS.get(words[0])
    return relation if relation is not None and words[: len(relation.split())] == relation.split() else None
