"""The manipulations as methods that take pictures of any kind: what `UnCLIP` offers to people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from modules.clip.frozen import warn_unknown_words
from modules.conditions import DEFAULT
from modules.errors import InputError
from modules.images.tensors import ImageLike, Pictures, load_image, load_images, sides_of
from modules.manipulations.edits import from_captions, path, text_diff, text_direction
from modules.manipulations.enlarging import enlarge, reachable_sizes
from modules.manipulations.inpainting import Hole, inpaint
from modules.manipulations.inversion import fresh_noise, invert, redraw, tokens_of
from modules.manipulations.latents import EDIT_STEPS, Latents, Walk, load_latents, stack_latents
from modules.manipulations.mixing import Mix, draw_mix
from modules.seeds import ImageSeeds, whole_seeds
from modules.trained_run import TrainedRun, condition_named

T = TypeVar("T")

Seed: TypeAlias = int | Sequence[int]
"""One seed for all pictures, or one for each: picture k of a list depends on its own seed only."""

Inputs: TypeAlias = ImageLike | Sequence[ImageLike] | Latents
"""A picture, several, or what `UnCLIP.invert` returned for them."""


class ImageMethods(TrainedRun):
    """The methods of `UnCLIP` for pictures.

    They return `Pictures`: a list of PIL pictures whose `tensor` is (B, 3, S, S) in [-1, 1].

    `size` is the side S, one that the run's decoder and upsamplers reach; by default the largest.
    `seed` is one seed or a list of seeds, for all noise that is drawn. If x_T is kept, only the upsamplers draw noise.
    `walk` says how the decoder's trajectory is followed. By default, latents keep the walk of their inversion, and
    pictures are inverted in 50 steps (8 for `text_diff`).
    Bad input raises `modules.errors.InputError`, whose one line says what is wrong.
    """

    def text_to_image(
        self,
        captions: str | Sequence[str],
        *,
        seed: Seed = 0,
        condition: str = DEFAULT,
        size: int | None = None,
        negative: str | Sequence[str] | None = None,
    ) -> Pictures:
        """Draws a picture for each caption, or for each seed if there is one caption and a list of seeds.

        Args:
            captions: one caption or a list of captions.
            condition: what the decoder is given, see `UnCLIP.embedding`.
            negative: a caption that guidance leads away from: one for all pictures, or one for each.

        `unclip sample --captions FILE --seed SEED` draws the same pictures for the same captions and seed, at any
        `size`, but for rounding.
        """
        texts, seeds = _paired(checked_captions(captions), seed)
        chosen = condition_named(condition)
        if chosen.needs_images:
            raise InputError("text_to_image has no image to embed: take image_variations, or another condition")
        reads = self.needs_clip(condition)
        if reads:
            warn_unknown_words(self.clip.tokenize, set(texts))
        tokens, z_t = self.embed_text(texts) if reads else self.unread(len(texts))
        away = self.negative_captions(negative, len(texts))
        if away is not None:
            self.check_negative(condition)
        z_i = self.embedding(condition, tokens, z_t, seeds.generators("prior"), None, away)
        not_this = self.negative_of(condition, away, seeds.generators("prior"))
        tokens = tokens if chosen.caption else torch.zeros_like(tokens)
        low = self.decode(tokens, z_i, seeds.generators("decoder"), chosen.decoder, texts, not_this)
        return Pictures(enlarge(self, low, size, seeds, captions=texts if chosen.caption else None))

    def invert(self, images: Inputs, *, caption: str | None = None, walk: Walk = Walk()) -> Latents:
        """Finds the latents (z_i, x_T) of pictures; every method below takes latents in place of pictures."""
        if isinstance(images, Latents):
            return images
        return invert(self, load_images(images), None if caption is None else [caption], walk)

    def load_latents(self, file: str | Path) -> Latents:
        """Reads a file that `save_latents` or `unclip invert` wrote; refuses latents of another run."""
        return load_latents(file, self)

    def reconstruct(
        self, images: Inputs, *, seed: Seed = 0, walk: Walk | None = None, size: int | None = None
    ) -> Pictures:
        """Draws pictures again from their latents: each once, or one picture once for each of several seeds."""
        latents = _latents(self, images, walk)
        rows, seeds = _paired(list(range(len(latents))), seed)
        return Pictures(enlarge(self, redraw(self, latents, walk)[rows], size, seeds))

    def image_variations(
        self,
        images: Inputs,
        *,
        eta: float | None = None,
        seed: Seed = 0,
        walk: Walk | None = None,
        size: int | None = None,
    ) -> Pictures:
        """Draws other pictures with the same z_i: one for each picture, or for each of several seeds of one picture.

        Args:
            eta: 0 draws the picture again; a larger eta, up to 1, strays further from it. None starts from fresh noise,
                so that only z_i is kept.
        """
        if eta is None and not isinstance(images, Latents):
            batch = load_images(images).to(self.device)
            nothing = torch.zeros(len(batch), 0, device=self.device)
            latents = Latents(self.embed_image(batch), nothing, tokens_of(self, None, len(batch)))
        else:
            latents = _latents(self, images, walk)
        rows, seeds = _paired(list(range(len(latents))), seed)
        latents = latents[rows]
        if eta is None:
            latents = Latents(latents.z_i, fresh_noise(self, seeds), latents.tokens)
        low = redraw(self, latents, walk, eta=eta or 0.0, seeds=seeds)
        return Pictures(enlarge(self, low, size, seeds))

    def interpolate(
        self,
        images: Inputs,
        count: int = 7,
        *,
        noise_seed: Seed | None = None,
        seed: Seed = 0,
        walk: Walk | None = None,
        size: int | None = None,
    ) -> Pictures:
        """Draws a row of `count` pictures through two or more given ones; a list of seeds gives a row for each.

        Args:
            noise_seed: None blends the pictures' own noise, so that both ends are reconstructions; with a seed all
                pictures of a row have the same fresh noise.
            seed: seed of the upsamplers' noise, the same for all pictures of a row.
        """
        stops = _latents(self, images, walk)
        noises: list[int | None] = [None] if noise_seed is None else list(_alike(noise_seed, 1))
        noises, seeds = _paired(noises, _alike(seed, len(noises)))
        fresh = [None if own is None else fresh_noise(self, ImageSeeds.of([own], 1)) for own in noises]
        return _rows(self, [path(stops, count, shared) for shared in fresh], seeds, walk, size)

    def mix(
        self,
        images: Sequence[ImageLike] = (),
        captions: str | Sequence[str] = (),
        weights: Sequence[float] | None = None,
        *,
        caption: str | None = None,
        negative: str | None = None,
        seed: Seed = 0,
        prior: str = DEFAULT,
        size: int | None = None,
    ) -> Pictures:
        """Draws pictures whose z_i is the weighted sum of the z_i of several pictures and captions; one for each seed.

        Args:
            images, captions: the pictures and captions to mix; the prior draws z_i for the captions.
            weights: one for each picture, then one for each caption; by default equal. Only their ratios count.
            caption: a caption for the decoder, beside z_i; by default none.
            negative: a caption that prior and decoder are guided away from.
        """
        texts = checked_captions(captions)
        loaded = load_images(images) if len(images) else None
        shares = [1.0] * (len(images) + len(texts)) if weights is None else weights
        chosen = Mix(loaded, tuple(texts), tuple(map(float, shares)))
        if negative:
            self.check_negative(chosen.condition(prior))
        seeds = ImageSeeds.of(_alike(seed, 1), len(_alike(seed, 1)))
        return Pictures(enlarge(self, draw_mix(self, chosen, seeds, caption, negative, prior), size, seeds))

    def interpolate_captions(
        self,
        captions: Sequence[str],
        count: int = 7,
        *,
        seed: Seed = 0,
        prior: str = DEFAULT,
        walk: Walk | None = None,
        size: int | None = None,
    ) -> Pictures:
        """Draws a row of `count` pictures that leads through two or more captions, by the z_i that a prior draws.

        All pictures of a row have the same noise. A list of seeds gives a row for each.
        """
        warn_unknown_words(self.clip.tokenize, captions)
        rows, seeds = [], list(_alike(seed, 1))
        for own in seeds:
            same = ImageSeeds.of([own] * len(captions), len(captions))
            stops = from_captions(self, captions, same, prior)
            rows.append(path(stops, count, stops.x_T[:1]))
        return _rows(self, rows, ImageSeeds.of(seeds, len(rows)), walk, size)

    def text_diff(
        self,
        images: Inputs,
        target: str,
        base: str | None = None,
        *,
        theta: float | Sequence[float] = 0.4,
        seed: Seed = 0,
        walk: Walk | None = None,
        size: int | None = None,
    ) -> Pictures:
        """Pictures changed towards what `target` says and `base` does not; their x_T is kept.

        Pictures are inverted in 8 steps unless `walk` says otherwise.

        Args:
            target, base: "a blue circle", "a red circle": the base says what the picture is. Without one, z_i moves
                towards the target's own z_t.
            theta: share of the angle by which z_i turns, usually 0.25 to 0.5; a list draws one picture for each of its
                values, for each image in turn.
            seed: seed of the upsamplers' noise, the same for all thetas. A list has one seed for each image; with one
                image it gives a row of thetas for each seed.
        """
        latents = _latents(self, images, walk or Walk(EDIT_STEPS))
        thetas = [theta] if isinstance(theta, (int, float)) else list(theta)
        if not thetas:
            raise InputError("nothing was given to draw: name a theta or several")
        warn_unknown_words(self.clip.tokenize, [target] if base is None else [target, base])
        z_d = text_direction(self, [target], None if base is None else [base])
        places, seeds = _paired(list(range(len(latents))), _alike(seed, len(latents)))
        rows = [stack_latents([text_diff(latents[[k]], z_d, value) for value in thetas]) for k in places]
        return _rows(self, rows, seeds, walk, size)

    def inpaint(
        self,
        image: ImageLike,
        mask: ImageLike,
        caption: str | None = None,
        *,
        seed: Seed = 0,
        prior: str = DEFAULT,
        walk: Walk = Walk(guidance_scale=1.5),
        resamples: int = 4,
        size: int | None = None,
    ) -> Pictures:
        """Draws the white part of the mask anew and keeps all other pixels; one picture for each seed.

        Args:
            caption: caption of the whole filled picture; without one, the picture's own z_i is used.
            resamples: how often each step is repeated; more repetitions fit the new part better to the old one.
        """
        picture = load_image(image)[None]
        hole = Hole(picture, 1 - open_part(mask, picture.shape[-1], [sides_of(image)]))
        seeds = ImageSeeds.of(_alike(seed, 1), len(_alike(seed, 1)))
        z_i: Tensor | None
        if caption is None:
            tokens = tokens_of(self, None, 1).expand(len(seeds), -1)
            z_i = self.embed_image(picture).expand(len(seeds), -1)
        else:
            warn_unknown_words(self.clip.tokenize, [caption])
            tokens, z_t = self.embed_text([caption] * len(seeds))
            z_i = self.embedding(prior, tokens, z_t, seeds.generators("prior"))
        hole = Hole(hole.images.expand(len(seeds), -1, -1, -1), hole.keep.expand(len(seeds), -1, -1, -1))
        side = reachable_sizes(self, size)[-1]
        return Pictures(inpaint(self, hole, z_i, tokens, seeds, walk, size=side, resamples=resamples))


def open_part(mask: ImageLike, side: int, pictures: Sequence[tuple[int, int]] = ()) -> Tensor:
    """(1, 1, side, side), 1 where a mask is white (a tensor may also be boolean).

    Args:
        mask: has the size of the whole picture, and is cropped to a square as that is; or the size of the square.
        side: the picture's side in pixels, as it was loaded.
        pictures: (height, width) of each picture that the mask is for; without any, they are squares.

    Raises:
        InputError: a mask of another size, or one that is white nowhere, so that there is nothing to draw.
    """
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.to(torch.uint8) * 255
    white = (load_image(mask).mean(dim=0) > 0).float()[None, None]
    if white.shape[-1] != side:
        own = white.shape[-1]
        raise InputError(f"the mask has {own} pixels at its shorter side, not {side}: make it as large as the picture")
    height, width = sides_of(mask)
    others = [size for size in pictures or [(side, side)] if size != (height, width)]
    if height != width and others:
        raise InputError(
            f"the mask is {width} x {height} pixels, the picture {others[0][1]} x {others[0][0]}: make it as large as "
            f"the picture, or a square for its middle"
        )
    if not bool(white.any()):
        raise InputError("the mask is white nowhere: paint white what is to be drawn anew")
    return white


def _latents(system: TrainedRun, images: Inputs, walk: Walk | None) -> Latents:
    return images if isinstance(images, Latents) else invert(system, load_images(images), None, walk or Walk())


def _rows(system: TrainedRun, rows: list[Latents], seeds: ImageSeeds, walk: Walk | None, size: int | None) -> Pictures:
    """Rows of equal length, drawn at once. All pictures of a row get the same upsampler noise."""
    if not rows or not len(rows[0]):
        raise InputError("nothing was given to draw")
    low = redraw(system, stack_latents(rows), walk)
    return Pictures(enlarge(system, low, size, seeds.repeat(len(rows[0]))))


def _alike(seed: Seed, count: int) -> Sequence[int]:
    """A seed for each; one serves all."""
    seeds = whole_seeds(seed)
    return [seeds] * count if isinstance(seeds, int) else seeds


def checked_captions(captions: str | Sequence[str]) -> list[str]:
    """Captions as a list.

    Raises:
        InputError: one is no text, or holds what is not UTF-8.
    """
    if not isinstance(captions, (str, list, tuple)):
        raise InputError(f"captions are a text or a list of texts, not {type(captions).__name__}")
    found = [captions] if isinstance(captions, str) else list(captions)
    for text in found:
        if not isinstance(text, str):
            raise InputError(f"a caption is a text, not {text!r}")
        if text.encode("utf-8", "replace").decode() != text:
            raise InputError(f"the caption {text!r} is not UTF-8")
    return found


def _paired(inputs: list[T], seed: Seed) -> tuple[list[T], ImageSeeds]:
    """Inputs and seeds of one length: a single input is repeated for each of several seeds."""
    if not inputs:
        raise InputError("nothing was given to draw")
    seeds = whole_seeds(seed)
    if not isinstance(seeds, int) and len(inputs) == 1:
        inputs = inputs * len(seeds)
    return inputs, ImageSeeds.of(seeds, len(inputs))
