"""`unclip caption`, `caption-report` and `reword`: written once, gone on with, read as a column; measured; reworded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.captioned.folder import open_captions
from datamodules.captions import CaptionConfig
from datamodules.rendered import scenes
from datamodules.rendered.reading import read
from datamodules.shapes import ShapesDataModule
from eval.captions.compare import compare, wrong_attributes
from experiments.captioning.caption import write_captions
from experiments.captioning.captioners import open_captioner
from experiments.captioning.options import FORMS
from experiments.captioning.reword import FORM_OF, lengthened
from experiments.cli import main
from experiments.console.devices import trainer_device
from modules.errors import InputError
from modules.networks.dalle3.captioner import CaptionerNetwork

SIZES = {"train_size": 20, "val_size": 6, "test_size": 5}


class Namer(torch.nn.Module):
    """Names a picture by its number, and counts."""

    identity = "namer"

    def __init__(self):
        super().__init__()
        self.seen = []

    def describe(self, images, index):
        assert images.shape[1:] == (3, 8, 8)
        self.seen += index
        return [f"number {k}" for k in index]


def shapes(**options):
    return ShapesDataModule(**{"image_size": 8, "batch_size": 4, "cache_dir": None, **SIZES, **options})


def test_every_picture_is_captioned_once_and_what_is_there_is_kept(tmp_path):
    namer, cpu = Namer(), trainer_device("cpu")
    write_captions(shapes(), namer, str(tmp_path), ["train"], 3, 7, cpu)
    assert namer.seen == list(range(20))
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["00000.txt", "00001.txt", "00002.txt"]
    write_captions(shapes(), namer, str(tmp_path), ["train", "val"], 3, 7, cpu)
    assert namer.seen == [*range(20), *range(6)]
    data = shapes(captions=CaptionConfig(added={"w": str(tmp_path)}, shares={"w": 1.0}))
    assert data.captions("train") == [f"number {k}" for k in range(20)]
    assert open_captions(tmp_path).sizes == {"train": 20, "val": 6}


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    class Tired(Namer):
        def describe(self, images, index):
            if len(self.seen) >= 14:
                raise RuntimeError("tired")
            return super().describe(images, index)

    tired, rested, cpu = Tired(), Namer(), trainer_device("cpu")
    with pytest.raises(RuntimeError, match="tired"):
        write_captions(shapes(), tired, str(tmp_path), ["train"], 7, 7, cpu)
    write_captions(shapes(), rested, str(tmp_path), ["train"], 7, 7, cpu)
    assert (tired.seen, rested.seen) == (list(range(14)), list(range(14, 20)))


@pytest.fixture(scope="module")
def captioner(tiny, clip_folder, tmp_path_factory):
    """A run with a CLIP and a captioner of random weights."""
    import yaml

    from modules.clip.frozen import FrozenCLIP

    run = tmp_path_factory.mktemp("run")
    shutil.copytree(clip_folder, run / "clip" / "export")
    settings = {"embedding_dim": tiny.DIM, **tiny.TEXT, "width": 16, "depth": 1, "heads": 2}
    network = tiny.randomise(CaptionerNetwork(**settings))
    export = run / "captioner" / "export"
    export.mkdir(parents=True)
    save_file(network.state_dict(), export / "model.safetensors")
    path = "modules.networks.dalle3.captioner.CaptionerNetwork"
    about = {
        "class_path": "modules.dalle3.captioner.Captioner",
        "init_args": {"network": {"class_path": path, "init_args": settings}, "tokenizer": "elsewhere"},
        "model": "modules.models.dalle3.captioner.CaptionerModel",
        "clip_fingerprint": FrozenCLIP(str(clip_folder)).fingerprint,
    }
    (export / "config.yaml").write_text(yaml.safe_dump(about))
    return run / "captioner"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "data.yaml"
    section = {"class_path": "datamodules.shapes.ShapesDataModule", "init_args": {"image_size": 16, "cache_dir": None}}
    path.write_text(json.dumps({"data": {**section, "init_args": {**section["init_args"], **SIZES}}}))
    return path


def test_the_command_writes_what_the_captioner_says_and_the_report_measures_it(captioner, config, tmp_path, capsys):
    out = tmp_path / "written"
    words = ["caption", str(config), "--captioner", str(captioner), "--out", str(out), "--splits", "val"]
    assert main([*words, "--batch-size", "4"]) == 0
    data = shapes(image_size=16)
    found = open_captioner(str(captioner))
    batch = data.dataset("val").__getitems__(range(6))
    expected = [" ".join(text.split()) for text in found.describe(batch.images, list(range(6)))]
    assert (out / "val" / "00000.txt").read_text().splitlines() == expected
    content = json.loads(config.read_text())
    content["data"]["init_args"]["captions"] = {"columns": {"true": "descriptive"}, "added": {"written": str(out)}}
    config.write_text(json.dumps(content))
    assert main(["caption-report", str(config), "--out", str(tmp_path / "report")]) == 0
    capsys.readouterr()
    true, written = json.loads((tmp_path / "report" / "report.json").read_text())["sources"]
    assert (true["source"], true["faultless"], true["unrelated"]) == ("true", 1.0, 0.0)
    assert written["captions"] == 6 and written["faultless"] < 1
    assert all(counts["wrong"] == counts["left_out"] == 0 for counts in true["outcomes"].values())
    events = list((tmp_path / "report").glob("events.out.tfevents.*"))
    assert len(events) == 1 and scenes.make_pair("val", 0).scene.background.encode() in events[0].read_bytes()


def test_what_does_not_fit_is_one_line(captioner, config, tmp_path, capsys, tiny):
    def complaint(*words):
        assert main([*map(str, words)]) == 2
        return capsys.readouterr().err

    common = ["caption", config, "--out", tmp_path / "o", "--captioner"]
    assert "no captioner at" in complaint(*common, tmp_path / "nothing")
    other = tiny.write_clip(tmp_path / "other", seed=5)
    assert "was trained on embeddings of the CLIP" in complaint(*common, captioner, "--clip", other)
    assert "captioner: temperature" in complaint(*common, captioner, "--temperature", "-1")


def test_forms_change_the_letters_and_leave_the_meaning():
    assert set(FORM_OF) == set(FORMS)
    text = "two shapes a small red circle above a large blue square on a tan background"
    changed = {name: change(text) for name, change in FORM_OF.items()}
    assert len(set(changed.values()) | {text}) == 1 + len(FORMS)
    assert all(read(one).said == read(text).said for one in changed.values())


def test_a_lengthened_prompt_keeps_what_it_says_and_leaves_nothing_open(tmp_path, capsys):
    for index in range(60):
        pair = scenes.make_pair("test", index)
        said = read(lengthened(pair.caption, index)).said
        assert not wrong_attributes(compare(pair.mentioned, said)), (pair.caption, said)
        assert all(value is not None for thing in said["objects"] for value in thing.values())
    manifest = tmp_path / "prompts.jsonl"
    lines = [{"caption": "a red circle", "caption_index": 3, "mentioned": scenes.make_pair("test", 0).mentioned}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["reword", str(manifest), "--lengthen", "--out", str(tmp_path / "long.jsonl")]) == 0
    (line,) = map(json.loads, (tmp_path / "long.jsonl").read_text().splitlines())
    assert line["prompt"] == "a red circle" and len(line["caption"].split()) > 5
    assert (line["mentioned"], line["caption_index"]) == (lines[0]["mentioned"], 3)
    capsys.readouterr()
    with pytest.raises(InputError, match="names 0 shapes"):
        lengthened("a photo of a dog", 0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A tiny captioner and a tiny language model of transformers' in folders, of random weights."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "square", "prompt", ":"]
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"vocab_size": len(words), **size, "encoder_hidden_size": 16, "bos_token_id": 2, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config={**text, "eos_token_id": 3, "pad_token_id": 0},
        vision_config={**size, "image_size": 16, "patch_size": 8},
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).eval().save_pretrained(folder / "blip")
    images = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder / "blip")
    gpt = transformers.GPT2Config(
        vocab_size=len(words), n_positions=256, n_embd=16, n_layer=1, n_head=2, eos_token_id=3
    )
    transformers.GPT2LMHeadModel(gpt).eval().save_pretrained(folder / "gpt")
    tokenizer.save_pretrained(folder / "gpt")
    return folder


def test_a_captioner_of_transformers_writes_from_a_local_folder(pretrained, tmp_path):
    captioner = open_captioner(str(pretrained / "blip"))
    images = shapes(image_size=16).dataset("val").__getitems__(range(3)).images
    written = captioner.describe(images, [0, 1, 2])
    assert len(written) == 3 and all(isinstance(text, str) for text in written)
    assert captioner.describe(images[:1], [0]) == written[:1]
    assert captioner.identity == open_captioner(str(pretrained / "blip")).identity
    shutil.copytree(pretrained / "blip", tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, tmp_path / "tuned" / "model.safetensors", {"format": "pt"})
    assert captioner.identity != open_captioner(str(tmp_path / "tuned")).identity  # a fine-tune: other weights alone
    with pytest.raises(InputError, match="--clip and --temperature are not for it"):
        open_captioner(str(pretrained / "blip"), temperature=1.0)


def test_a_language_model_of_transformers_lengthens_prompts(pretrained, tmp_path, capsys):
    manifest = tmp_path / "prompts.jsonl"
    manifest.write_text(json.dumps({"caption": "a red circle", "caption_index": 0}) + "\n")
    words = ["reword", str(manifest), "--model", str(pretrained / "gpt"), "--out", str(tmp_path / "long.jsonl")]
    assert main(words) == 0
    capsys.readouterr()
    line = json.loads((tmp_path / "long.jsonl").read_text())
    assert line["prompt"] == "a red circle" and line["caption"]
    assert main([*words[:3], str(tmp_path), *words[4:]]) == 2
    assert "no language model that transformers reads" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "nothing"), *words[4:]]) == 2
    assert "nothing: no such folder; name one" in capsys.readouterr().err
