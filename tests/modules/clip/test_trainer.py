"""CLIP: learns a batch by heart; what it exports is what FrozenCLIP and open_clip's own loader read."""

from __future__ import annotations

import json
import math
import re

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close

from datamodules.rendered.scenes import VOCABULARY
from modules.clip import CLIPTrainer
from modules.clip.frozen import FrozenCLIP, load_tokenizer, warn_unknown_words
from modules.clip.word_tokenizer import WholeCaptions, WordTokenizer
from modules.errors import InputError
from modules.training.stage import TrainingConfig

TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.8)
SWAPS = [("above", "below"), ("left", "right")]


@pytest.fixture
def make(tiny):
    def make(lr=5e-3, **changes) -> CLIPTrainer:
        torch.manual_seed(0)
        settings = {"optimizer": lambda params: torch.optim.AdamW(params, lr=lr), "training": TRAINING, **changes}
        return CLIPTrainer(**{**tiny.CLIP, **settings})

    return make


@pytest.fixture
def batch(shapes):
    """8 pairs of different captions."""
    dataset = shapes(embeddings=None).dataset("train")
    first = {caption: k for k, caption in reversed(list(enumerate(dataset.records.captions)))}
    return dataset.__getitems__(sorted(first.values())[:8])


@pytest.fixture(scope="module")
def clip(clip_folder):
    return FrozenCLIP(str(clip_folder))


def pictures(size=16, count=3):
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_it_learns_a_batch_by_heart_and_exports_the_average(make, batch, shapes, tiny, tmp_path):
    """At a rate of 5e-3 two of 10 seeds ended with two pairs that it held for one, at a loss of ln(2) / 4 = 0.17."""
    (tmp_path / "config.yaml").write_text("{}")
    stage, data = make(lr=2e-3), shapes(embeddings=None)
    trainer = tiny.fit(stage, tiny.repeat(data, batch, 120), 120, tmp_path, gradient_clip_val=0)
    assert trainer.callback_metrics["train/loss"] < 0.1 < math.log(8)
    assert trainer.callback_metrics["train/retrieval"] == 1
    clip = FrozenCLIP(str(tmp_path / "export"))
    z_i, z_t = clip.encode_image(batch.images), clip.encode_text(clip.tokenize(batch.captions))
    assert (z_i @ z_t.T).argmax(dim=1).tolist() == list(range(8))
    stage.averaged.eval()
    assert_close(z_i, F.normalize(stage.averaged.encode_image(batch.images), dim=1))
    assert clip.tokenize.words == data.vocabulary()
    config = json.loads((tmp_path / "export" / "open_clip_config.json").read_text())
    assert config["model_cfg"] == tiny.CLIP


def ready(stage, data):
    """With its tokeniser, and without a Trainer."""
    words = sorted(
        {word for caption in data.captions for word in caption.split()} | {"above", "below", "left", "right"}
    )
    stage.tokenize = WordTokenizer(words, 30, 20)
    return stage


def features(stage, batch, captions=None):
    model = stage.network
    z_i = F.normalize(model.encode_image(batch.images), dim=1)
    return z_i, F.normalize(model.encode_text(stage.tokenize(captions or batch.captions)), dim=1)


class OneRank:
    world_size, global_rank = 1, 0


def loss_of(stage, batch, monkeypatch):
    monkeypatch.setattr(CLIPTrainer, "trainer", OneRank())
    monkeypatch.setattr(CLIPTrainer, "global_rank", 0)
    return stage._loss(stage.network, batch)


def test_the_loss_is_the_symmetric_cross_entropy(make, batch, monkeypatch):
    stage = ready(make(), batch)
    loss, log = loss_of(stage, batch, monkeypatch)
    z_i, z_t = features(stage, batch)
    logits = stage.network.logit_scale.exp() * z_i @ z_t.T
    by_hand = -(logits.log_softmax(dim=1).diag() + logits.log_softmax(dim=0).diag()).mean() / 2
    assert_close(loss, by_hand)
    assert log["retrieval"].mean() == (logits.argmax(dim=1) == torch.arange(8)).float().mean()
    assert set(log) == {"retrieval"}


def test_captions_with_their_relation_turned_round_are_further_negatives(make, batch, monkeypatch):
    captions = ["a red circle above a blue square", "a red circle", "a circle left of a square", *batch.captions[3:]]
    batch = batch._replace(captions=captions)
    plain = loss_of(ready(make(), batch), batch, monkeypatch)[0]
    stage = ready(make(swap_words=SWAPS), batch)
    loss, log = loss_of(stage, batch, monkeypatch)
    turned = {"above": "below", "below": "above", "left": "right", "right": "left"}
    other = [" ".join(turned.get(word, word) for word in caption.split()) for caption in captions]
    changed = torch.tensor([a != b for a, b in zip(captions, other, strict=True)])
    assert changed[[0, 2]].all() and not changed[1]
    (z_i, z_t), (_, negative) = features(stage, batch), features(stage, batch, other)
    scale = stage.network.logit_scale.exp()
    pairs = torch.stack([(z_i * z_t).sum(dim=1), (z_i * negative).sum(dim=1)], dim=1) * scale
    assert_close(loss - plain, -(pairs.log_softmax(dim=1)[:, 0] * changed).sum() / 8)
    assert_close(log["order"].mean(), (pairs[changed, 0] > pairs[changed, 1]).float().mean())
    assert torch.equal(stage.swapped(stage.tokenize(captions)), stage.tokenize(other))


def test_a_word_to_swap_that_the_vocabulary_lacks_is_named_before_training(make, shapes, tiny, tmp_path):
    with pytest.raises(InputError, match=r"the vocabulary has no word 'over'"):
        tiny.fit(make(swap_words=[("over", "below")]), shapes(embeddings=None), 1, tmp_path)


def test_a_vocabulary_and_captions_have_to_fit_before_training(make, shapes, tiny, tmp_path):
    short = {**tiny.CLIP["text_cfg"], "context_length": 4}
    with pytest.raises(InputError, match=r"the caption has \d+ words, the model's context holds 3"):
        tiny.fit(make(text_cfg=short), shapes(embeddings=None), 1, tmp_path)
    data = shapes(embeddings=None)
    data.texts = lambda split: ["a circle"] if split == "train" else ["a circle " * 30]
    with pytest.raises(InputError, match=r"the caption has 60 words, the model's context holds 19"):
        tiny.fit(make(), data, 1, tmp_path)  # Of validation, which would come hours later.
    small = {**tiny.CLIP["text_cfg"], "vocab_size": 10}
    with pytest.raises(InputError, match=r"text_cfg.vocab_size \(10\) leaves room for 7"):
        tiny.fit(make(text_cfg=small), shapes(embeddings=None), 1, tmp_path)


def test_the_logits_scale_stays_between_1_and_100(make, batch, shapes, tiny, tmp_path):
    stage = make(training=TrainingConfig(warmup_steps=0, ema_decay=0.0))
    for maximize, bound in ((False, 0.0), (True, math.log(100))):
        stage.network.logit_scale.data.fill_(2.0)
        stage.optimizer = lambda params, up=maximize: torch.optim.SGD(
            [p for p in params if p.ndim == 0], lr=1e6, maximize=up
        )
        tiny.fit(stage, tiny.repeat(shapes(embeddings=None), batch, 1), 1, tmp_path, gradient_clip_val=0)
        assert stage.network.logit_scale.item() == pytest.approx(bound)
        assert stage.averaged.logit_scale.item() == pytest.approx(bound)  # averaged after it was clamped


def test_images_of_another_size_are_resized_in_training_and_in_use(make, clip, batch, monkeypatch):
    stage = ready(make(), batch)
    large = F.interpolate(batch.images, (32, 32), mode="nearest")
    small = F.interpolate(large, (16, 16), mode="bicubic", antialias=True)
    losses = [loss_of(stage, batch._replace(images=images), monkeypatch)[0] for images in (large, small)]
    assert_close(*losses)
    assert_close(clip.encode_image(large), clip.encode_image(small.clamp(-1, 1)))


def test_open_clips_own_loader_gives_the_same_embeddings(clip, clip_folder):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    images = pictures()
    pil = torch.stack([preprocess(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    scaled = images.float() / 127.5 - 1
    assert_close(clip.preprocess(scaled), pil, atol=1e-5, rtol=0)
    with torch.no_grad():
        z_i = model.eval().encode_image(pil, normalize=True)
        tokens = clip.tokenize(["a small red circle", "two shapes"])
        z_t = model.encode_text(tokens, normalize=True)
    assert_close(clip.encode_image(scaled), z_i, atol=1e-5, rtol=0)
    assert_close(clip.encode_text(tokens), z_t, atol=1e-5, rtol=0)
    for z in (z_i, z_t):
        assert_close(z.norm(dim=1), torch.ones(len(z)))
    assert (clip.embedding_dim, clip.image_size) == (16, 16)


def test_it_is_frozen_and_in_evaluation_mode_whatever_is_around_it(clip):
    around = torch.nn.Sequential(clip).train()
    assert around.training and not any(module.training for module in clip.modules())
    assert not any(p.requires_grad for p in clip.parameters())


def test_gradients_reach_the_image(clip):
    """CLIP guidance needs them."""
    images = (pictures().float() / 127.5 - 1).requires_grad_()
    clip.encode_image(images)[:, 0].sum().backward()
    assert (images.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_the_fingerprint_is_that_of_the_weights(clip, clip_folder, tiny, tmp_path):
    again, other = tiny.write_clip(tmp_path / "a"), tiny.write_clip(tmp_path / "b", seed=1)
    assert FrozenCLIP(str(clip_folder)).fingerprint == FrozenCLIP(str(again)).fingerprint == clip.fingerprint
    assert FrozenCLIP(str(other)).fingerprint != clip.fingerprint
    assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]{8}", clip.fingerprint)


def test_the_fingerprint_is_that_of_the_words_too(clip, tiny, tmp_path):
    words = sorted(VOCABULARY)
    other = FrozenCLIP(str(tiny.write_clip(tmp_path, words=[words[1], words[0], *words[2:]])))
    assert other.fingerprint[:16] == clip.fingerprint[:16]
    assert other.fingerprint != clip.fingerprint


def test_the_tokeniser_is_the_folders(clip, clip_folder, tmp_path):
    ours = load_tokenizer(clip_folder)
    assert isinstance(ours, WordTokenizer)
    assert torch.equal(ours(["a red circle"]), clip.tokenize(["a red circle"]))
    theirs = load_tokenizer("ViT-B-32")(["a red circle"])
    assert theirs[0, :5].tolist() == [49406, 320, 736, 7117, 49407]  # open_clip's BPE: start, a, red, circle, end


@pytest.mark.parametrize(
    ("name", "told"),
    [("ViT-L-41", r"; did you mean ViT-L-\d"), ("nowhere/clip/export", "of open_clip$")],
)
def test_no_other_tokeniser_takes_the_place_of_one_that_is_not_there(name, told):
    with pytest.raises(InputError, match=f"no CLIP at {name}: neither a folder nor an architecture.*{told}"):
        load_tokenizer(name)


def test_unknown_words_are_told_once(clip, capsys):
    warn_unknown_words(clip.tokenize, ["a crimson circle", "a crimson zebra", "a red circle"])
    assert capsys.readouterr().err == "the model does not know 'crimson', 'zebra': read as unknown words\n"
    warn_unknown_words(clip.tokenize, ["a red circle"])
    assert capsys.readouterr().err == ""


def damaged(tiny, folder, name, content):
    export = tiny.write_clip(folder)
    path = export / name
    path.unlink() if content is None else path.write_bytes(content)
    return export


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json", "vocabulary.json"])
@pytest.mark.parametrize("content", [b"damaged", b"{}", None])
def test_a_damaged_folder_is_named(tiny, tmp_path, name, content):
    export = damaged(tiny, tmp_path / "clip", name, content)
    with pytest.raises(InputError) as error:
        FrozenCLIP(str(export))
    assert str(export) in str(error.value)


@pytest.mark.parametrize("name", ["runs/nowhere/clip", "ViT-B-32"])
def test_a_clip_that_is_not_there(name):
    with pytest.raises(InputError, match=f"no CLIP at {name}: train one"):
        FrozenCLIP(name)


def test_weights_that_can_not_be_had(tmp_path):
    with pytest.raises(InputError, match=r"no file of weights at .*weights.bin; for ViT-B-32 open_clip knows"):
        FrozenCLIP("ViT-B-32", str(tmp_path / "weights.bin"))


def test_a_missing_vocabulary_is_named(tiny, tmp_path):
    export = damaged(tiny, tmp_path / "clip", "vocabulary.json", None)
    with pytest.raises(InputError, match=r"vocabulary.json is missing: this CLIP's tokens are the words in it"):
        load_tokenizer(export)


def test_folders_that_do_not_say_which_tokeniser(clip, tiny, tmp_path):
    """Those of before it was recorded: the words if they are there, else open_clip's."""
    export = tiny.write_clip(tmp_path)
    config = json.loads((export / "open_clip_config.json").read_text())
    assert config.pop("tokenizer") == "words"
    (export / "open_clip_config.json").write_text(json.dumps(config))
    assert FrozenCLIP(str(export)).fingerprint == clip.fingerprint
    (export / "vocabulary.json").unlink()
    assert load_tokenizer(export)(["a"])[0, 0] == 49406


def test_open_clips_tokeniser_refuses_what_it_would_cut(capsys):
    theirs = load_tokenizer("ViT-B-32")
    tokenize = WholeCaptions(theirs)
    fits, long = "red " * 75, "red " * 76  # With start and end of the text, 77 and 78 tokens.
    assert torch.equal(tokenize([fits, "a red circle"]), theirs([fits, "a red circle"]))
    with pytest.raises(InputError, match=r"the caption 'red red .*\.\.\.' has 78 tokens, the CLIP's context holds 77"):
        tokenize(["a red circle", long])
    rare = "\u9f98" * 40  # Letters of several tokens each.
    count = len(theirs.encode(rare)) + 2
    assert count > 100
    with pytest.raises(InputError, match=f"has {count} tokens"):
        tokenize(rare)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert torch.equal(tokenize.cutting(["a", long]), theirs(["a", long]))
    error = capsys.readouterr().err
    assert "has 78 tokens, the CLIP's context holds 77: it is cut" in error and error.count("\n") == 1


def test_a_clips_tokeniser_in_yaml_cuts_as_the_clip_does(clip_folder, capsys):
    from modules.clip.clip_tokenizer import CLIPTokenizer

    for name, long in ((clip_folder, "red " * 30), ("ViT-B-32", "red " * 90)):
        tokenize = CLIPTokenizer(str(name))
        with pytest.raises(InputError, match="context holds"):
            tokenize(["a", long])
        assert (tokenize.cutting(["a", long])[1] != 0).all()
        assert capsys.readouterr().err.count("it is cut") == 1


@pytest.mark.parametrize(
    ("part", "key"), [("vision_cfg", "image_size"), ("text_cfg", "vocab_size"), ("text_cfg", "context_length")]
)
def test_what_a_tower_has_to_be_told_is_named(tiny, part, key):
    settings = {**tiny.CLIP, part: {name: value for name, value in tiny.CLIP[part].items() if name != key}}
    with pytest.raises(InputError, match=rf"model.init_args.{part}.{key} is not set: .* as in {key}: "):
        CLIPTrainer(**settings)
