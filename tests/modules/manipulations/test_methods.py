"""`UnCLIP` as people use it: any picture in, PIL and tensors out, seeds that name pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from modules.clip.caption_tokens import CHARACTERS, CharacterTokenizer
from modules.errors import InputError
from modules.images.tensors import Pictures, to_pil
from modules.manipulations import Hole, Walk, write_over, zero_shot
from modules.manipulations.methods import open_part
from modules.networks.embedding_pathway import EmbeddingPathway
from modules.networks.upsampler import UpsamplerText
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

QUICK = Walk(steps=4)


def test_text_to_image_is_what_sampling_draws(system):
    made = system.text_to_image(["a red circle", "a blue square"], seed=3)
    expected = system.generate(["a red circle", "a blue square"], seed=3)
    assert isinstance(made, Pictures)
    assert [image.size for image in made] == [(32, 32)] * 2
    assert torch.equal(made.tensor, expected)


def test_a_list_of_seeds_names_single_pictures(system):
    many = system.text_to_image("a red circle", seed=[4, 5, 6], size=16)
    assert len(many) == 3
    assert_close(system.text_to_image("a red circle", seed=5, size=16).tensor, many.tensor[1:2], atol=1e-5, rtol=0)
    assert not torch.equal(many.tensor[0], many.tensor[1])
    with pytest.raises(InputError, match="3 seeds do not go with 2 pictures"):
        system.text_to_image(["a", "one"], seed=[1, 2, 3])


def test_glide_has_its_own_decoder(system):
    made = system.text_to_image("a red circle", condition="glide", size=16)
    expected = system.generate(["a red circle"], "glide", 0, upsample=False)
    assert torch.equal(made.tensor, expected)


def test_pictures_paths_and_tensors_are_one_thing(system, test_pictures, tmp_path):
    picture = to_pil(test_pictures[0])
    picture.save(tmp_path / "picture.png")
    sources = [tmp_path / "picture.png", str(tmp_path / "picture.png"), picture, test_pictures[0]]
    made = [system.reconstruct(source, walk=QUICK, size=16).tensor for source in sources]
    for other in made[1:]:
        assert_close(other, made[0], atol=2e-2, rtol=0)
    assert_close(system.reconstruct(sources, walk=QUICK, size=16).tensor[2:3], made[2], atol=1e-4, rtol=0)


def test_variations_move_with_eta_and_seed(system, test_pictures):
    latents = system.invert(test_pictures[0], walk=QUICK)
    same = system.image_variations(latents, eta=0.0, walk=QUICK, size=16).tensor
    assert_close(same, system.reconstruct(latents, walk=QUICK, size=16).tensor)
    some = system.image_variations(latents, eta=0.8, seed=[1, 2], walk=QUICK, size=16).tensor
    assert (some[0] - some[1]).abs().max() > 1e-2
    fresh = system.image_variations(test_pictures[0], seed=[1, 2], walk=QUICK, size=16).tensor
    assert (fresh[0] - some[0]).abs().max() > 1e-2
    assert_close(system.image_variations(latents, seed=[1, 2], walk=QUICK, size=16).tensor, fresh, atol=1e-5, rtol=0)


def test_interpolations_have_the_count_asked_for_and_their_ends(system, test_pictures):
    latents = system.invert(test_pictures[:2], walk=QUICK)
    made = system.interpolate(latents, 4, walk=QUICK, size=16).tensor
    assert_close(made[[0, 3]], system.reconstruct(latents, walk=QUICK, size=16).tensor, atol=1e-5, rtol=0)
    shared = system.interpolate(latents, 4, noise_seed=1, walk=QUICK, size=16).tensor
    assert (shared[0] - made[0]).abs().max() > 1e-2
    captions = system.interpolate_captions(["a red circle", "a blue square"], 3, walk=QUICK, size=16)
    assert len(captions) == 3


def test_pictures_are_inverted_in_few_steps_for_an_edit_by_words(system, test_pictures):
    given = (test_pictures[0], "a blue circle", "a red circle")
    made = system.text_diff(*given, size=16).tensor
    assert torch.equal(made, system.text_diff(*given, theta=0.4, walk=Walk(steps=8), size=16).tensor)
    assert not torch.equal(made, system.text_diff(*given, walk=Walk(steps=50), size=16).tensor)


def test_text_diff_gives_a_picture_for_each_theta(system, test_pictures):
    latents = system.invert(test_pictures[:2], walk=QUICK)
    made = system.text_diff(latents, "a blue circle", "a red circle", theta=[0.0, 0.4], walk=QUICK, size=16).tensor
    assert_close(made[[0, 2]], system.reconstruct(latents, walk=QUICK, size=16).tensor, atol=1e-4, rtol=0)
    assert (made[1] - made[0]).abs().max() > 1e-2


def test_edits_of_many_pictures_are_drawn_in_batches(system, test_pictures, monkeypatch):
    """All thetas of all pictures go through the decoder together, as far as the batch size lets them."""
    latents, sizes = system.invert(test_pictures[:2], walk=QUICK), []
    network = system.stage("decoder").model.network
    forward = type(network).forward

    def spy(self, x_t, t, condition):
        sizes.append(len(x_t))
        return forward(self, x_t, t, condition)

    monkeypatch.setattr(type(network), "forward", spy)
    walk = Walk(steps=1, batch_size=4)
    system.text_diff(latents, "a blue circle", theta=[0.0, 0.2, 0.4], walk=walk, size=16)
    assert sizes == [4, 2]


def test_every_method_takes_a_seed_or_a_list(system, test_pictures):
    """What a seed draws in a list is what it draws alone, and another seed draws another picture."""
    latents = system.invert(test_pictures[:2], walk=QUICK)
    one = latents[:1]
    captions = ["a red circle", "a blue square"]
    calls = {
        "reconstruct": lambda seed: system.reconstruct(one, seed=seed),
        "text_diff": lambda seed: system.text_diff(one, "a blue circle", theta=[0.1, 0.3], seed=seed),
        "interpolate": lambda seed: system.interpolate(latents, 3, seed=seed),
        "interpolate, noise": lambda seed: system.interpolate(latents, 3, noise_seed=seed),
        "interpolate, both": lambda seed: system.interpolate(latents, 3, noise_seed=seed, seed=seed),
        "captions": lambda seed: system.interpolate_captions(captions, 3, seed=seed, walk=QUICK),
    }
    for name, call in calls.items():
        both, first, second = call([7, 8]).tensor, call([7]).tensor, call(8).tensor
        assert len(both) == 2 * len(first) == 2 * len(second), name
        assert_close(both[: len(first)], first, atol=1e-4, rtol=0)
        assert_close(both[len(first) :], second, atol=1e-4, rtol=0)
        assert (first - second).abs().max() > 1e-2, name


def test_seeds_of_several_pictures_are_theirs(system, test_pictures):
    latents = system.invert(test_pictures[:2], walk=QUICK)
    made = system.text_diff(latents, "a blue circle", theta=[0.1, 0.3], seed=[7, 8]).tensor
    second = system.text_diff(latents[1:], "a blue circle", theta=[0.1, 0.3], seed=8).tensor
    assert_close(made[2:], second, atol=1e-4, rtol=0)
    assert_close(
        system.reconstruct(latents, seed=[7, 8]).tensor[1:],
        system.reconstruct(latents[1:], seed=[8]).tensor,
        atol=1e-4,
        rtol=0,
    )
    for call in (
        lambda: system.text_diff(latents, "a blue circle", seed=[1, 2, 3]),
        lambda: system.reconstruct(latents, seed=[1, 2, 3]),
        lambda: system.interpolate(latents, 3, noise_seed=[1, 2], seed=[1, 2, 3]),
    ):
        with pytest.raises(InputError, match="3 seeds do not go with 2 pictures"):
            call()
    for call in (
        lambda: system.interpolate_captions(["a red circle", "a blue square"], seed=[]),
        lambda: system.text_diff(latents[:1], "a blue circle", seed=[]),
        lambda: system.interpolate(latents, 3, noise_seed=[]),
    ):
        with pytest.raises(InputError, match=r"a list of at least one, not \[\]"):
            call()
    with pytest.raises(InputError, match="nothing was given to draw"):
        system.text_diff(latents[:1], "a blue circle", theta=[])


def test_inpainting_keeps_what_is_known_and_draws_the_rest(system, test_pictures):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 8:] = True
    made = system.inpaint(test_pictures[0], mask, "a red circle", seed=[1, 2], walk=QUICK, size=16).tensor
    assert_close(made[:, :, :, :8], test_pictures[:1, :, :, :8].expand(2, -1, -1, -1))
    assert (made[0, :, :, 8:] - made[1, :, :, 8:]).abs().max() > 1e-2
    large = system.inpaint(test_pictures[0], mask, None, walk=QUICK)
    assert large[0].size == (32, 32)
    kept = torch.nn.functional.interpolate(test_pictures[:1], (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    assert_close(large.tensor[..., :16], kept[..., :16])


def test_inpainting_by_the_caption_alone_has_no_z_i(stored_run, tiny, test_pictures, monkeypatch):
    """Zeros would be an embedding to a decoder that whitens them, or that has learned a vector for none."""
    system = UnCLIP(stored_run)
    network = tiny.randomise(tiny.make_network("decoder", pathway=EmbeddingPathway(whiten=True, learned_null=True)))
    network.clip_features.whitening.fit(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) + 2)
    system.replace_model("decoder", replace(system.stage("decoder").model, network=network))
    given, condition = [], network.condition

    def watched(tokens, z_i, **more):
        given.append(z_i)
        return condition(tokens, z_i, **more)

    monkeypatch.setattr(network, "condition", watched)
    mask = torch.ones(16, 16, dtype=torch.bool)
    system.inpaint(
        test_pictures[0], mask, "a red circle", prior="caption_only", walk=Walk(1, 1.5), resamples=1, size=16
    )
    assert given and all(z_i is None for z_i in given)
    system.inpaint(test_pictures[0], mask, "a red circle", walk=Walk(1, 1.5), resamples=1, size=16)
    assert any(z_i is not None for z_i in given)


def test_a_decoder_with_tokens_of_its_own_is_given_these(stored_run, tiny, monkeypatch):
    """And not the CLIP's, which may be as many."""
    system = UnCLIP(stored_run)
    network = tiny.randomise(tiny.make_network("decoder", vocab_size=CHARACTERS))
    system.replace_model("decoder", replace(system.stage("decoder").model, network=network, reads="characters"))
    given, condition = [], network.condition

    def watched(tokens, z_i, **more):
        given.append(tokens)
        return condition(tokens, z_i, **more)

    monkeypatch.setattr(network, "condition", watched)
    system.text_to_image("a red circle", size=16)
    own = CharacterTokenizer(tiny.CONTEXT)(["a red circle"])
    assert torch.equal(given[0], own) and not given[1].any()  # With the caption, and without for guidance.
    given.clear()
    system.text_to_image("a red circle", negative="a blue square", size=16)
    away = CharacterTokenizer(tiny.CONTEXT)(["a blue square"])
    assert torch.equal(given[0], own) and torch.equal(given[1], away)


def test_an_upsampler_with_text_is_given_the_caption(stored_run, tiny, monkeypatch):
    system = UnCLIP(stored_run)
    text = UpsamplerText(tiny.VOCABULARY_SIZE, tiny.CONTEXT, 8, 1, 2)
    network = tiny.randomise(tiny.make_network("upsampler", text=text))
    system.replace_model("upsampler", replace(system.stage("upsampler").model, network=network))
    given, read = [], network.read
    monkeypatch.setattr(network, "read", lambda tokens: (given.append(tokens), read(tokens))[1])
    told = system.text_to_image("a red circle", seed=1).tensor
    assert torch.equal(system.generate(["a red circle"], seed=1), told)
    tokens = system.clip.tokenize(["a red circle"])
    assert len(given) == 2 and all(torch.equal(each, tokens) for each in given)
    low = system.generate(["a red circle"], seed=1, upsample=False)
    assert float((system.upsample(low, ImageSeeds.at(1, [(0, 0)])) - told).abs().max()) > 1e-4  # None is told.


def test_a_small_pixel_is_known_only_if_all_below_it_is():
    keep = torch.ones(1, 1, 4, 4)
    keep[..., 1, 2] = 0
    small = Hole(torch.zeros(1, 3, 4, 4), keep).at(2)
    assert small.keep[0, 0].tolist() == [[1, 0], [1, 1]]
    with pytest.raises(InputError, match="the mask is"):
        Hole(torch.zeros(1, 3, 4, 4), keep[..., :2])


def test_masks_of_any_kind_are_white_where_to_draw():
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 8, 16))
    found = open_part(image, 16)
    assert found.shape == (1, 1, 16, 16)
    assert found[..., :8].all()
    assert not found[..., 8:].any()
    with pytest.raises(InputError, match="white nowhere"):
        open_part(Image.new("L", (16, 16), 0), 16)
    for other in (Image.new("L", (8, 8), 255), Image.new("L", (32, 24), 255), torch.ones(17, 17)):
        with pytest.raises(InputError, match="make it as large as the picture"):
            open_part(other, 16)
    wide = Image.new("L", (20, 16), 0)  # Cropped to its middle, as a picture of that size is.
    wide.paste(255, (0, 0, 10, 16))
    assert torch.equal(open_part(wide, 16, [(16, 20)]), found)
    for pictures in ((), [(16, 16)], [(16, 20), (20, 16)]):
        with pytest.raises(InputError, match="mask is 20 x 16 pixels, the picture"):
            open_part(wide, 16, pictures)
    assert torch.equal(open_part(image, 16, [(16, 20)]), found)  # of the picture's middle


def test_a_mask_is_as_large_as_the_picture_that_exif_turns(system, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 20), "white").save(tmp_path / "turned.png", exif=exif)
    mask = Image.new("L", (20, 16), 255)
    assert len(system.inpaint(tmp_path / "turned.png", mask, walk=Walk(steps=1), resamples=1, size=16)) == 1
    with pytest.raises(InputError, match="mask is 16 x 20 pixels, the picture 20 x 16"):
        system.inpaint(tmp_path / "turned.png", mask.transpose(Image.Transpose.ROTATE_90), walk=QUICK, size=16)


def test_whole_numbers_of_other_libraries_are_seeds(system, test_pictures):
    """NumPy's one alone, a list and an array of them, and PyTorch's, draw what Python's own draw."""
    draw = partial(system.text_to_image, "a red circle", size=16)
    expected = draw(seed=[4, 5]).tensor
    for seeds in (np.array([4, 5]), [np.int64(4), np.uint8(5)], torch.tensor([4, 5])):
        assert torch.equal(draw(seed=seeds).tensor, expected)
    assert_close(draw(seed=np.int64(4)).tensor, expected[:1], atol=1e-5, rtol=0)
    assert torch.equal(system.generate(["a red circle"], seed=np.int32(4), upsample=False), draw(seed=4).tensor)
    mask = torch.ones(16, 16, dtype=torch.bool)
    fill = partial(system.inpaint, test_pictures[0], mask, walk=Walk(steps=1), resamples=1, size=16)
    assert torch.equal(fill(seed=np.int64(4)).tensor, fill(seed=4).tensor)
    with pytest.raises(InputError, match=r"seed is a whole number, or a list of at least one, not 4\.0"):
        fill(seed=4.0)


@pytest.mark.parametrize(
    ("captions", "seed", "message"),
    [
        (3, 0, "captions are a text or a list of texts, not int"),
        (None, 0, "captions are a text or a list of texts, not NoneType"),
        (["a red circle", None], 0, "a caption is a text, not None"),
        ([b"a red circle"], 0, "a caption is a text, not b'a red circle'"),
        ("caf\udce9", 0, "is not UTF-8"),
        ("a red circle", [], "seed is a whole number, or a list of at least one"),
        ("a red circle", "7", "seed is a whole number"),
        ("a red circle", 1.5, "seed is a whole number"),
        ("a red circle", None, "seed is a whole number"),
        ("a red circle", [0.5], "seed is a whole number"),
    ],
)
def test_captions_and_seeds_that_are_none_are_refused(system, captions, seed, message):
    with pytest.raises(InputError, match=message):
        system.text_to_image(captions, seed=seed, size=16)


def test_a_size_that_no_stage_reaches_is_refused(system):
    with pytest.raises(InputError, match="makes pictures of 16, 32 pixels a side, not of 64"):
        system.text_to_image("a red circle", size=64)


def test_zero_shot_is_the_softmax_of_clips_logits(system, test_pictures):
    captions = ["a red circle", "a blue square", "a cyan cross"]
    found = zero_shot(system, test_pictures, captions)
    z_i, z_t = system.embed_image(test_pictures), system.embed_text(captions)[1]
    logits = system.clip.model.logit_scale.exp() * (z_i @ z_t.T)
    assert_close(found, logits.softmax(dim=1))


def test_text_is_written_over_the_middle_and_stays_inside():
    picture = Image.new("RGB", (64, 64), "red")
    written = write_over(picture, "a long label indeed")
    assert picture.getpixel((32, 32)) == (255, 0, 0)
    changed = [x for x in range(64) if any(written.getpixel((x, y)) != (255, 0, 0) for y in range(64))]
    assert len(changed) > 30
    assert written.getpixel((32, 2)) == (255, 0, 0)
