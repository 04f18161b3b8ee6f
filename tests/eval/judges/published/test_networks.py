"""Published judges with small random networks in their files' layouts, against transformers or a derivation by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from eval.errors import InputError
from eval.judges.judges import Judges, PublishedJudges
from eval.judges.published import clips, listing
from eval.judges.published.dinov2 import MEAN, STD, DINOv2Extractor, at_side
from eval.judges.published.image_reward import REWARD_MEAN, REWARD_STD, ImageReward
from eval.judges.published.mlp import AestheticMLP
from eval.judges.published.vqa import QUESTION, VQAScore
from eval.judges.published.weights import read_state

transformers = pytest.importorskip("transformers", minversion="5.0")


def pictures(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of order 1, none of them zero, so that no part of the network is idle."""
    g = torch.Generator().manual_seed(seed)
    for tensor in network.parameters():
        tensor.data = torch.randn(tensor.shape, generator=g) * (0.3 if tensor.ndim > 1 else 0.1) + (tensor.ndim == 1)
    return network.eval().requires_grad_(False)


def dinov2(side: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """transformers' DINOv2, small, and its tensors under the names of the authors' file."""
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=side, patch_size=14, mlp_ratio=2
    )
    model = randomised(transformers.Dinov2Model(config))
    theirs = model.state_dict()
    state = {
        "cls_token": theirs["embeddings.cls_token"],
        "mask_token": theirs["embeddings.mask_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
    }
    plain = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
        **{f"blocks.{k}.{a}": f"encoder.layer.{k}.{b}" for k in range(2) for a, b in (
            ("norm1", "norm1"), ("norm2", "norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
            ("attn.proj", "attention.o_proj"))},
    }  # fmt: skip
    for kind in ("weight", "bias"):
        state |= {f"{ours}.{kind}": theirs[f"{other}.{kind}"] for ours, other in plain.items()}
        for k in range(2):
            parts = [theirs[f"encoder.layer.{k}.attention.{part}_proj.{kind}"] for part in "qkv"]
            state[f"blocks.{k}.attn.qkv.{kind}"] = torch.cat(parts)
    for k in range(2):
        for n in (1, 2):
            state[f"blocks.{k}.ls{n}.gamma"] = theirs[f"encoder.layer.{k}.layer_scale{n}.lambda1"]
    return model, {name: tensor.contiguous() for name, tensor in state.items()}


def test_dinov2_is_that_of_transformers(tmp_path: Path):
    model, state = dinov2(28)
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    extractor = DINOv2Extractor(tmp_path / "dinov2_vits14_pretrain.pth", side=28)
    images = pictures(3, 28)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    expected = model(pixel_values=(images / 255 - mean) / std).pooler_output
    assert_close(extractor(images), expected, atol=1e-4, rtol=1e-4)
    assert extractor(pictures(2, 40)).shape == (2, 64) and "DINOv2 64" in extractor.name


def test_dinov2s_positions_are_enlarged_with_its_offset():
    _, state = dinov2(28)
    grid = state["pos_embed"][:, 1:].reshape(1, 2, 2, 64).permute(0, 3, 1, 2)
    found = at_side(state, 56)["pos_embed"]
    assert found.shape == (1, 17, 64) and torch.equal(found[:, 0], state["pos_embed"][:, 0])
    # Source coordinate of target 0 under a scale of 4.1 / 2: (0.5 / 2.05) - 0.5, and of 3: 3.5 / 2.05 - 0.5.
    scaled = F.interpolate(grid, scale_factor=4.1 / 2, mode="bicubic")
    assert_close(found[:, 1:].transpose(1, 2).reshape(1, 64, 4, 4), scaled)
    assert not torch.allclose(scaled, F.interpolate(grid, size=(4, 4), mode="bicubic"), atol=1e-3)


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
CAPTIONS = ["a red cube", "two dogs on the beach"]


def test_a_clip_of_transformers_is_read_as_open_clips(tmp_path: Path):
    """PickScore's file has the names of transformers' CLIPModel."""
    vision, text = TINY["vision_cfg"], TINY["text_cfg"]
    config = transformers.CLIPConfig(
        projection_dim=16,
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1,
            "image_size": vision["image_size"], "patch_size": 8, "hidden_act": "gelu", "projection_dim": 16,
        },
        text_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1,
            "vocab_size": text["vocab_size"], "hidden_act": "gelu", "projection_dim": 16, "eos_token_id": 49407,
        },
    )  # fmt: skip
    model = randomised(transformers.CLIPModel(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "PickScore_v1.safetensors")
    clip = clips.published_clip("pickscore", tmp_path / "PickScore_v1.safetensors", config=TINY)
    tokens = clip.tokenizer(CAPTIONS)
    images = pictures(2, 32)
    x = (images / 255 - clip.mean) / clip.std
    # Padding of open_clip is 0, of transformers anything: the text is read up to its end.
    theirs = model(input_ids=tokens, pixel_values=x)
    assert_close(F.normalize(clip(images), dim=1), theirs.image_embeds, atol=1e-5, rtol=1e-4)
    assert_close(F.normalize(clip.encode_text(CAPTIONS), dim=1), theirs.text_embeds, atol=1e-5, rtol=1e-4)
    logits = clips.logit_scale(clip) * (
        F.normalize(clip(images), dim=1) * F.normalize(clip.encode_text(CAPTIONS), dim=1)
    )
    assert_close(logits.sum(1), theirs.logits_per_image.diag(), atol=1e-3, rtol=1e-4)


def test_hpsv2s_wrapped_file_is_open_clips_own_model(tmp_path: Path):
    model = randomised(open_clip.CLIP(**TINY))
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "HPS_v2_compressed.pt")
    clip = clips.published_clip("hpsv2", tmp_path / "HPS_v2_compressed.pt", config=TINY)
    images = pictures(2, 32)
    assert_close(clip(images), model.encode_image((images / 255 - clip.mean) / clip.std))
    assert clip.preprocessing.resize_mode == "longest" and clip.name.startswith("hpsv2: ViT-H-14 ")
    assert clips.logit_scale(clip) == pytest.approx(math.exp(model.logit_scale.item()))


def mlp_state(width: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = {0: (width, 9), 2: (9, 7), 4: (7, 5), 6: (5, 3), 7: (3, 1)}
    state = {f"layers.{k}.weight": torch.randn(b, a, generator=g) for k, (a, b) in sizes.items()}
    return state | {f"layers.{k}.bias": torch.randn(b, generator=g) for k, (_, b) in sizes.items()}


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for k in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{k}.weight"].double().T + state[f"layers.{k}.bias"].double()
    return x[:, 0]


def test_the_laion_mlp_reads_unit_embeddings(tmp_path: Path):
    state = mlp_state(6)
    torch.save(state, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    features = np.random.default_rng(0).normal(size=(5, 6)) * 7
    x = torch.from_numpy(features)
    found = AestheticMLP(tmp_path / "sac+logos+ava1-l14-linearMSE.pth")(features)
    np.testing.assert_allclose(found, by_hand(state, x / x.norm(dim=1, keepdim=True)), rtol=1e-5, atol=1e-5)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube", "two", "dogs", "on", "the", "beach"]


def blip() -> tuple[nn.Module, nn.Module]:
    """transformers' BLIP towers, small: the oracle, whose vision tower has other names than BLIP's file."""
    vision = transformers.BlipVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1, image_size=32, patch_size=16,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    text = transformers.BlipTextConfig(
        vocab_size=len(WORDS), hidden_size=64, encoder_hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=1, max_position_embeddings=40, is_decoder=True,
    )  # fmt: skip
    return (
        randomised(transformers.BlipVisionModel(vision)),
        randomised(transformers.BlipTextModel(text, add_pooling_layer=False), 1),
    )


def blip_state(vision: nn.Module, text: nn.Module) -> dict[str, Tensor]:
    theirs, state = vision.state_dict(), {}
    plain = {"patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm"}
    for k in range(2):
        pairs = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.qkv": "self_attn.qkv"}
        pairs |= {"attn.proj": "self_attn.projection", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        plain |= {f"blocks.{k}.{a}": f"encoder.layers.{k}.{b}" for a, b in pairs.items()}
    for kind in ("weight", "bias"):
        state |= {f"visual_encoder.{a}.{kind}": theirs[f"{b}.{kind}"] for a, b in plain.items()}
    state["visual_encoder.cls_token"] = theirs["embeddings.class_embedding"].reshape(1, 1, -1)
    state["visual_encoder.pos_embed"] = theirs["embeddings.position_embedding"]
    return state | {f"text_encoder.{name}": tensor for name, tensor in text.state_dict().items()}


def test_image_reward_reads_caption_and_picture_together(tmp_path: Path):
    vision, text = blip()
    head = mlp_state(64, 2)
    state = {f"blip.{k}": v for k, v in blip_state(vision, text).items()} | {f"mlp.{k}": v for k, v in head.items()}
    torch.save(state, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    reward = ImageReward(tmp_path / "ImageReward.pt", tmp_path / "vocab.txt")
    images = pictures(2, 32)
    found = reward.score(images, [{"caption": caption} for caption in CAPTIONS])
    known = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    mean, std = (torch.tensor(v)[:, None, None] for v in known)
    for k, caption in enumerate(CAPTIONS):  # one by one and without padding: the mask hides it
        seen = vision(pixel_values=((images[k : k + 1] / 255) - mean) / std).last_hidden_state
        ids = torch.tensor([[2, *(WORDS.index(word) for word in caption.split()), 3]])
        out = text(input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=seen)
        expected = (by_hand(head, out.last_hidden_state[:, 0].double()) - REWARD_MEAN) / REWARD_STD
        assert found[k, 0].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)
    swapped = reward.score(images, [{"caption": caption} for caption in CAPTIONS[::-1]])
    assert not torch.allclose(found, swapped)


def llava(folder: Path) -> nn.Module:
    """A LLaVA of random weights with its processor, as save_pretrained writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<image>", "<pad>", "Yes", "No", "Does", "this", "figure", "show", "a", "red", "cube", "dogs"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=["<image>"]
    )
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        image_processor=pixels, tokenizer=fast, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=1)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def test_vqa_score_is_the_probability_of_yes(tmp_path: Path):
    torch.manual_seed(0)
    model = llava(tmp_path / "llava")
    score = VQAScore(tmp_path / "llava")
    images = pictures(2, 16)
    records = [{"caption": caption} for caption in ("a red cube", "dogs")]
    found = score.score(images, records)
    from PIL import Image

    for k, record in enumerate(records):
        picture = Image.fromarray(images[k].permute(1, 2, 0).numpy())
        text = "<image>\n" + QUESTION.format(record["caption"])
        inputs = score.processor(images=picture, text=text, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits[0, -1].softmax(-1)[3]
        assert found[k, 0].item() == pytest.approx(expected.item(), rel=1e-4)
    assert (found > 0).all() and (found < 1).all() and score.name.startswith("VQAScore llava ")
    with pytest.raises(InputError, match="holds no vision-language model"):
        VQAScore(tmp_path)


def blip2(folder: Path) -> nn.Module:
    """A BLIP-2 with a T5, of random weights, with its processor, which puts the picture's tokens into texts itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "<image>", "Yes", "Does", "this", "figure", "show", "a", "red", "cube"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    pixels = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    processor = transformers.Blip2Processor(image_processor=pixels, tokenizer=fast, num_query_tokens=3)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Blip2Config(
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        qformer_config={**sizes, "encoder_hidden_size": 16, "vocab_size": len(words)},
        text_config=transformers.T5Config(
            vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        ).to_dict(),
        num_query_tokens=3,
        image_token_index=3,
    )
    model = randomised(transformers.Blip2ForConditionalGeneration(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def test_vqa_score_of_a_model_with_encoder_and_decoder(tmp_path: Path):
    """The geometric mean of the answer's two tokens, "Yes" and the end: as CLIP-FlanT5's authors have it."""
    model, images = blip2(tmp_path / "blip2"), pictures(1, 16)
    score = VQAScore(tmp_path / "blip2")
    found = score.score(images, [{"caption": "a red cube"}])[0, 0].item()
    pixels = score.processor.image_processor(images[0], return_tensors="pt").pixel_values
    said = score.processor.tokenizer(QUESTION.format("a red cube"), return_tensors="pt").input_ids
    ids = torch.cat([torch.full((1, 3), 3), said], dim=1)  # three tokens of the picture, then the question
    out = model(pixel_values=pixels, input_ids=ids, decoder_input_ids=torch.tensor([[0, 4]])).logits[0].softmax(-1)
    assert found == pytest.approx((out[0, 4] * out[1, 1]).sqrt().item(), rel=1e-4)
    assert found != pytest.approx(out[0, 4].item(), rel=1e-2)


class Runs:
    def __reduce__(self):
        return print, ("code of a stranger",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no weights", "cannot read the weights"),
        ({"state_dict": {"x": Runs()}}, "cannot read the weights"),
        ({"a": 1}, "holds no tensors by name"),
        ({"layers.0.weight": torch.full((2, 2), torch.nan)}, "cannot read the weights"),
        ({"cls_token": torch.ones(1, 1, 4)}, "lacks 'patch_embed.proj.weight'"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path: Path, content: object, told: str, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=told) as error:
        DINOv2Extractor(path)
    assert "\n" not in str(error.value) and "stranger" not in capsys.readouterr().out


def test_a_tensor_of_another_network_is_named(tmp_path: Path):
    state = read_state_of(tmp_path, randomised(open_clip.CLIP(**TINY)).state_dict())
    for change, told in (
        ({"visual.proj": torch.zeros(3, 3)}, r"visual.proj has the shape \(3, 3\)"),
        ({"extra.weight": torch.zeros(1)}, "holds extra.weight"),
    ):
        torch.save({**state, **change}, tmp_path / "x.pt")
        with pytest.raises(InputError, match=told):
            clips.published_clip("hpsv2", tmp_path / "x.pt", config=TINY)


def read_state_of(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "w.safetensors")
    found = read_state(folder / "w.safetensors")
    assert found.keys() == state.keys()
    return found


def test_files_are_found_by_their_published_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(listing.WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(InputError, match="there are dinov2, cmmd, hpsv2"):
        listing.find_files("fid", None)
    with pytest.raises(InputError, match=r"needs dinov2_vitl14_pretrain.pth, .* get it from facebookresearch/dinov2"):
        listing.find_files("dinov2", str(tmp_path))
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    assert not any("(here)" in line for line in listing.lines(str(tmp_path)))
    (tmp_path / "inception-2015-12-05.pt").write_bytes(b"")
    assert "fid, inception_score (here)" in listing.lines(str(tmp_path))
    assert "clip_score, r_precision, cmmd" in listing.lines(None)
    (tmp_path / "dinov2_vitl14_pretrain.pth").write_bytes(b"")
    assert listing.find_files("dinov2", str(tmp_path))[1] == [tmp_path / "dinov2_vitl14_pretrain.pth"]
    monkeypatch.setenv(listing.WEIGHTS_VARIABLE, str(tmp_path))
    assert "dinov2 (here)" in listing.lines(None) and "hpsv2 (not here)" in listing.lines(None)
    other = tmp_path / "mine.pth"
    other.write_bytes(b"")
    assert listing.find_files(f"hpsv2={other}", None)[1] == [other]
    with pytest.raises(InputError, match="takes 1 files"):
        listing.find_files(f"hpsv2={other},{other}", None)


def test_published_judges_are_judges():
    assert list(Judges(published=PublishedJudges({"dinov2": lambda images: images})).extractors()) == ["dinov2"]


def test_cmmds_pictures_are_cropped_to_their_centre(tmp_path: Path):
    """Its authors crop the centre square, and then resize: io_util._center_crop_and_resize."""
    from PIL import Image

    model = randomised(open_clip.CLIP(**TINY))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    clip = clips.published_clip("cmmd", tmp_path / "clip.pt", config=TINY)
    wide = F.interpolate(pictures(1, 8).float(), (64, 96), mode="bicubic").clamp(0, 255).round().to(torch.uint8)
    square = Image.fromarray(wide[0, :, :, 16:80].permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BICUBIC)
    theirs = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None]
    assert_close(F.normalize(clip(wide), dim=1), F.normalize(clip(theirs), dim=1), atol=2e-2, rtol=0)
    squashed = F.interpolate(wide.float(), (32, 32), mode="bicubic", antialias=True).round().to(torch.uint8)
    assert float((F.normalize(clip(squashed), dim=1) - F.normalize(clip(theirs), dim=1)).abs().max()) > 5e-2
