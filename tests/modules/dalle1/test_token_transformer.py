"""The token Transformer: what each token sees, its loss, its cache, its draws, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.clip.bpe_dropout import BPEDropout
from modules.dalle1.dvae import DVAE
from modules.dalle1.token_transformer import TokenTransformer
from modules.errors import InputError
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.token_transformer import TokenTransformerModel, check_tokens, drawn, mean_text_nll
from modules.models.data_sizes import CaptionSizes, DataSizes
from modules.models.exports import load_model
from modules.networks.dalle1 import masked_transformer
from modules.networks.dalle1.dvae import DVAENetwork
from modules.networks.dalle1.masks import MASKS, sequence_mask
from modules.networks.dalle1.token_transformer import TokenTransformerNetwork

TEXT, GRID, CODES, WORDS = 3, 3, 5, 7
TOKENS = GRID * GRID


def network(**changes) -> TokenTransformerNetwork:
    torch.manual_seed(0)
    settings = {"vocab_size": WORDS, "context_length": TEXT, "num_codes": CODES, "grid": GRID, "kernel": 1}
    made = TokenTransformerNetwork(**{**settings, "width": 16, "depth": 4, "heads": 2, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return made.eval()


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(1, WORDS, (count, TEXT), generator=generator)
    text[0, -1] = 0
    return text, torch.randint(0, CODES, (count, TOKENS), generator=generator)


@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_a_layer_lets_through_what_its_mask_shows_and_no_more(mask):
    """One layer: the logits at a place change with an input token just where the mask is true."""
    own = network(depth=1, masks=[mask])
    text, image = inputs(1)
    before = own(text, image)
    logits = torch.cat([before["text"].sum(-1), before["image"].sum(-1)], dim=1)[0]
    shown = sequence_mask(mask, TEXT + 1, GRID, 1, torch.device("cpu"))
    for key in range(TOKENS - 1):
        other = image.clone()
        other[0, key] = (other[0, key] + 1) % CODES
        after = own(text, other)
        changed = torch.cat([after["text"].sum(-1), after["image"].sum(-1)], dim=1)[0] != logits
        place = TEXT + 1 + key
        assert changed.tolist() == shown[:-1, place].tolist()
    for word in range(TEXT):
        other = text.clone()
        other[0, word] = other[0, word] % (WORDS - 1) + 1 if other[0, word] else 1
        after = own(other, image)
        changed = torch.cat([after["text"].sum(-1), after["image"].sum(-1)], dim=1)[0] != logits
        assert changed.tolist() == [place >= word + 1 for place in range(TEXT + TOKENS)]


def test_padding_has_an_embedding_of_its_own_at_each_place():
    own = network()
    assert own.text.padding.shape == (TEXT, 16)
    found = own.text(torch.tensor([[2, 0, 0]]))[0]
    assert torch.equal(found[0], own.text.start)
    assert torch.equal(found[1], own.text.tokens.weight[2] + own.text.positions[0])
    assert torch.equal(found[2:], own.text.padding[1:])


def test_an_image_token_is_embedded_with_its_row_and_column():
    own, image = network().image, torch.arange(TOKENS)[None] % CODES
    found = own(image)[0]
    assert torch.equal(found[5], own.codes.weight[0] + own.rows[1] + own.columns[2])
    assert torch.equal(own(image[:, 4:6], 4)[0], found[4:6])


def test_the_loss_is_an_eighth_of_text_and_seven_eighths_of_image():
    own = network()
    text, image = inputs(3)
    logits = own(text, image)
    model = TokenTransformerModel(own, dvae=fake_dvae(image))
    found = model.parts(batch_of(text))
    real = text != 0
    of_text = -F.log_softmax(logits["text"], -1).gather(-1, text[..., None])[..., 0][real].mean()
    of_image = -F.log_softmax(logits["image"], -1).gather(-1, image[..., None]).mean()
    torch.testing.assert_close(found.text, of_text)
    torch.testing.assert_close(found.image, of_image)
    torch.testing.assert_close(model.validation_loss(batch_of(text), torch.Generator()), of_text / 8 + 7 * of_image / 8)
    assert mean_text_nll(logits["text"], torch.zeros_like(text)) == 0


def batch_of(text: torch.Tensor) -> ImageTextBatch:
    count, z = len(text), torch.zeros(len(text), 1)
    index = torch.arange(count)
    return ImageTextBatch(torch.zeros(count, 3, 6, 6), [""] * count, index, None, EmbeddingBatch(z, z, text, index))


def fake_dvae(image: torch.Tensor) -> DVAEModel:
    """A dVAE that gives these tokens for whatever pictures."""

    class Fixed(DVAEModel):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return image.unflatten(1, (GRID, GRID))

    return Fixed(DVAENetwork(6, CODES, 4, (1, 2), 1, 4))


def test_captions_are_left_out_as_often_as_asked():
    text, image = inputs(2)
    model = TokenTransformerModel(network(), drop_text=1.0, dvae=fake_dvae(image))
    nothing = TokenTransformerModel(network(), dvae=fake_dvae(image)).parts(batch_of(torch.zeros_like(text)))
    torch.testing.assert_close(model.loss(batch_of(text), torch.Generator().manual_seed(0)), nothing.loss)
    kept = TokenTransformerModel(network(), drop_text=0.0, dvae=fake_dvae(image))
    torch.testing.assert_close(kept.loss(batch_of(text), torch.Generator()), kept.parts(batch_of(text)).loss)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("masks", [["row"] * 2, ["column"] * 2, ["convolutional"] * 2, "paper", None], ids=str)
@torch.no_grad()
def test_the_cache_changes_no_token_and_no_logit(masks, guidance):
    """Against the whole sequence evaluated anew for each token."""
    own = network(**({"depth": 2, "masks": masks, "kernel": 3} if isinstance(masks, list) else {"masks": masks}))
    text = torch.tensor([[1, 2, 0], [3, 4, 5], [1, 2, 0]])
    uniform = torch.rand(3, TOKENS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    seen: list[torch.Tensor] = []
    model = TokenTransformerModel(own, guidance_scale=guidance)

    def draw(logits: torch.Tensor, place: int) -> torch.Tensor:
        seen.append(logits)
        return drawn(logits, uniform[:, place], 1.0)

    found = own.sample(text, draw, guidance=model.guided if guidance != 1 else None)
    tokens = torch.zeros(3, TOKENS, dtype=torch.int64)
    for place in range(TOKENS):
        logits = own(text, tokens)["image"][:, place]
        if guidance != 1:
            without = own(torch.zeros_like(text), tokens)["image"][:, place]
            logits = without + guidance * (logits - without)
        torch.testing.assert_close(seen[place], logits, atol=1e-5, rtol=1e-5)
        tokens[:, place] = drawn(logits, uniform[:, place], 1.0)
    assert torch.equal(found, tokens)
    assert len(tokens.unique(dim=0)) == 3


@torch.no_grad()
def test_given_tokens_stay_and_the_rest_is_drawn_as_if_they_had_been():
    model = TokenTransformerModel(network())
    text = torch.tensor([[1, 2, 0], [3, 4, 5]])
    whole = model.sample(text, generators())
    for count in (0, 1, 4, TOKENS):
        assert torch.equal(model.sample(text, generators(), given=whole[:, :count]), whole)
    other = (whole[:, :3] + 1) % CODES
    found = model.sample(text, generators(), given=other)
    assert torch.equal(found[:, :3], other) and not torch.equal(found, whole)


def generators(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(count)]


def test_a_picture_depends_on_its_own_generator_alone():
    model, text = TokenTransformerModel(network()), torch.tensor([[1, 2, 0], [3, 4, 5]])
    both = model.sample(text, generators())
    assert torch.equal(model.sample(text[1:], generators()[1:]), both[1:])


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([[0.0, math.log(2.0), math.log(5.0)]])
    uniform = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    counts = torch.bincount(drawn(logits.expand(8000, 3), uniform, 1.0), minlength=3)
    assert counts.tolist() == [1000, 2000, 5000]
    hot = torch.bincount(drawn(logits.expand(8000, 3), uniform, 2.0), minlength=3) / 8000
    torch.testing.assert_close(hot, torch.softmax(logits[0] / 2, 0), atol=2e-4, rtol=0)
    assert drawn(logits, torch.tensor([0.0], dtype=torch.float64), 0.0).tolist() == [2]
    assert drawn(logits, torch.tensor([1.0 - 1e-16], dtype=torch.float64), 1.0).tolist() == [2]
    forbidden = torch.tensor([[-math.inf, 0.0, -math.inf]])
    assert drawn(forbidden, torch.tensor([0.0], dtype=torch.float64), 1.0).tolist() == [1]


def test_under_bfloat16_embeddings_and_logits_stay_float32():
    own = network()
    text, image = inputs()
    exact = own(text, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = own(text, image)
        assert own.text(text).dtype == own.image(image).dtype == torch.float32
    for name, logits in found.items():
        assert logits.dtype == torch.float32
        assert (logits != logits.bfloat16().float()).float().mean() > 0.9  # They were not rounded to it either.
        torch.testing.assert_close(logits, exact[name], atol=0.1, rtol=0.1)


def test_a_transformer_of_other_tokens_than_the_dvaes_is_refused():
    dvae = DVAEModel(DVAENetwork(8, CODES, 4, (1, 2), 1, 4))
    with pytest.raises(InputError, match=r"grid is 3, the dVAE's is 4"):
        check_tokens(network(), dvae)
    with pytest.raises(InputError, match=r"num_codes is 9, the dVAE's is 5"):
        check_tokens(network(num_codes=9), dvae)
    with pytest.raises(ValueError, match="masks names 1 layers"):
        network(masks=["row"])
    assert network(masks="paper").transformer.masks == ["row", "column", "row", "raster_convolutional"]
    assert network().transformer.masks == ["row", "column", "row", "convolutional"]
    with pytest.raises(InputError, match="needs a dVAE"):
        TokenTransformerModel(network()).tokens_of(torch.zeros(1, 3, 6, 6))


def test_the_papers_transformer_has_twelve_billion_parameters():
    with torch.device("meta"):
        own = TokenTransformerNetwork(16_384, 256, 8192, 32, width=3968, depth=64, heads=62)
        blocks = sum(p.numel() for p in own.transformer.parameters())
        assert blocks == 64 * (12 * 3968**2 + 13 * 3968) + 2 * 3968
        assert own.text.padding.shape == (256, 3968)
        assert sum(p.numel() for p in own.parameters()) == pytest.approx(12e9, rel=0.03)


def test_it_learns_which_picture_a_caption_has():
    own = network(width=32, depth=2)
    text, image = torch.tensor([[1, 1, 0], [2, 1, 0], [3, 2, 1]]), inputs(3)[1]
    model = TokenTransformerModel(own.train(), temperature=0.0, dvae=fake_dvae(image))
    optimizer = torch.optim.Adam(own.parameters(), lr=1e-2)
    for _ in range(80):
        loss = model.loss(batch_of(text), torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model.sample(text, generators(3)), image)


@pytest.fixture(scope="module")
def trained(tiny, shapes, tmp_path_factory):
    """A dVAE and a Transformer on its tokens, three steps each, as `unclip fit` leaves them."""
    root = tmp_path_factory.mktemp("dalle")
    dvae = DVAE(tiny.make_network("dvae"))
    tiny.write_stage(root / "dvae", "dvae", dvae.averaged)
    stage = TokenTransformer(tiny.make_network("token_transformer"), str(root / "dvae"))
    return stage, tiny.fit(stage, shapes(), 3, root / "token_transformer", limit_val_batches=1), root


def test_training_uses_the_dvaes_tokens_and_keeps_the_dvae_out_of_its_own_weights(trained, shapes):
    stage, trainer, root = trained
    for name in ("loss", "text", "image"):
        assert torch.isfinite(trainer.callback_metrics[f"val/{name}"])
    dvae = load_model(root / "dvae", DVAEModel)
    batch = shapes().dataset("val").__getitems__(range(5))
    assert torch.equal(stage.averaged_model.tokens_of(batch.images), dvae.model.encode(batch.images).flatten(1))
    assert not any("dvae" in name for name in stage.state_dict())
    assert stage.exported_about()["dvae"] == dvae.fingerprint
    assert stage.show_samples(batch).shape == (10, 3, 16, 16)


def test_a_checkpoint_of_another_dvaes_tokens_is_refused(trained, tiny, tmp_path):
    stage, trainer, _ = trained
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    content = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    again = TokenTransformer(tiny.make_network("token_transformer"), stage.dvae_folder)
    again.on_load_checkpoint(content)
    tiny.write_stage(tmp_path / "dvae", "dvae", tiny.randomise(tiny.make_network("dvae"), 5))
    other = TokenTransformer(tiny.make_network("token_transformer"), str(tmp_path / "dvae"))
    with pytest.raises(InputError, match="the tokens of another dVAE than that in"):
        other.on_load_checkpoint(content)


def test_bpe_dropout_of_other_tokens_than_the_networks_is_refused(tiny, tmp_path):
    def checked(length: int) -> None:
        network = tiny.make_network("token_transformer", context_length=length)
        stage = TokenTransformer(network, str(tmp_path), bpe_dropout=BPEDropout("ViT-B-32"))
        stage.check_data(DataSizes(None, lambda: CaptionSizes(length, 29, tiny.DIM, None)))

    with pytest.raises(InputError, match="context_length is 20, and 77 in the tokeniser of bpe_dropout, ViT-B-32"):
        checked(20)
    with pytest.raises(InputError, match="vocab_size is 30, and 49408"):
        checked(77)


@torch.no_grad()
def test_steps_over_weights_that_are_not_plain_are_those_of_the_whole_transformer(monkeypatch):
    """As where they are shares on several devices: the same tokens, by `forward` and its cache."""
    model, text = TokenTransformerModel(network(), guidance_scale=2.0), torch.tensor([[1, 2, 0], [3, 4, 5]])
    expected = model.sample(text, generators())
    monkeypatch.setattr(masked_transformer, "plain", lambda transformer: False)
    monkeypatch.setattr(masked_transformer, "Stepper", None)
    assert torch.equal(model.sample(text, generators()), expected)


def test_recomputed_activations_change_no_gradient():
    found = []
    for checkpointing in (False, True):
        own = network(checkpointing=checkpointing).train()
        text, image = inputs()
        sum(logits.square().sum() for logits in own(text, image).values()).backward()
        found.append({name: p.grad for name, p in own.named_parameters()})
    assert all(torch.equal(found[0][name], gradient) for name, gradient in found[1].items())
