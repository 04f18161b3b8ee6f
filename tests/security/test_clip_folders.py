"""A CLIP's folder is data: no code of a tokeniser, no towers from elsewhere, no pickles, no absurd sizes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.trials.fuzz import watched
from eval.errors import InputError as EvalInputError
from eval.judges.features import load_clip
from experiments.cli import main
from modules.clip.folder import check_config
from modules.clip.frozen import FrozenCLIP, load_tokenizer
from modules.errors import InputError


def text(**more):
    return lambda config: config["model_cfg"]["text_cfg"].update(more)


def vision(**more):
    return lambda config: config["model_cfg"]["vision_cfg"].update(more)


CODE = {"trust_remote_code": True}

CONFIGS = {
    "a tokeniser's code": (
        text(hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True}),
        "tokenizer_kwargs",
    ),
    "a tokeniser's path": (text(hf_tokenizer_name="x", tokenizer_kwargs={"vocab_file": "/etc/passwd"}), "vocab_file"),
    "a text tower from elsewhere": (text(hf_model_name="somebody/tower"), "hf_model_name"),
    "a text tower in the folder": (text(hf_model_name="./tower"), "hf_model_name"),
    "a captioner": (lambda config: config["model_cfg"].update(multimodal_cfg={"width": 8}), "multimodal_cfg"),
    "a vision tower from the hub": (vision(timm_model_name="hf-hub:somebody/tower"), "timm_model_name"),
    "a vision tower in a folder": (vision(timm_model_name="local-dir:/tmp"), "timm_model_name"),
    "weights of a vision tower": (
        vision(timm_model_name="resnet18", timm_model_pretrained=True),
        "timm_model_pretrained",
    ),
    "an unknown key": (lambda config: config["model_cfg"].update(cast_dtype="x"), "cast_dtype"),
    "an object": (vision(act_kwargs={"x": {"class_path": "subprocess.Popen"}}), "act_kwargs"),
    "no mapping": (lambda config: config.update(model_cfg=[1]), "model_cfg"),
    "a std of 0": (lambda config: config["preprocess_cfg"].update(std=[0.5, 0, 0.5]), "std"),
    "a side of 10^6": (lambda config: config["preprocess_cfg"].update(size=10**6), "size"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_what_a_config_asks_for_is_refused_by_name(clip_config, what):
    change, name = CONFIGS[what]
    folder = clip_config(change)
    (folder / "evil.py").write_text("open('PWNED', 'w')\n")
    with watched(folder), pytest.raises(InputError, match=name):
        FrozenCLIP(str(folder))
    with watched(folder), pytest.raises(EvalInputError, match="cannot load the CLIP"):
        load_clip(str(folder))
    assert not Path("PWNED").exists()


def test_a_tokeniser_is_checked_without_the_clip(clip_config):
    def bpe(config):
        config.pop("tokenizer")
        text(hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True})(config)

    folder = clip_config(bpe)
    (folder / "vocabulary.json").unlink()
    with pytest.raises(InputError, match="tokenizer_kwargs"):
        load_tokenizer(folder)


@pytest.mark.parametrize("change", [vision(layers=10**9), vision(width=2**20), text(vocab_size=2**40)])
def test_a_network_is_no_larger_than_its_file(clip_config, change):
    with pytest.raises(InputError):
        FrozenCLIP(str(clip_config(change)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.update(logit_scale=torch.tensor(float("nan"))), "logit_scale is not finite"),
        (lambda t: t.update(more=torch.zeros(1)), "it has no more"),
        (lambda t: t.pop("logit_scale"), "the weights lack logit_scale"),
        (lambda t: t.update(logit_scale=t["logit_scale"].double()), "logit_scale is .* of float64"),
    ],
)
def test_weights_are_checked_by_name(sent, change, line):
    path = sent / "clip" / "export" / "open_clip_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=line):
        FrozenCLIP(str(path.parent))


class Explosive:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return Path.write_text, (Path("PWNED"), "a pickle was loaded")


def test_pickles_are_not_run(sent, capsys):
    folder = sent / "clip" / "export"
    (folder / "open_clip_model.safetensors").unlink()
    for name in ("open_clip_pytorch_model.bin", "evil.pt"):
        (folder / name).write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(InputError, match="can't be loaded"):
        FrozenCLIP(str(folder))
    words = ["embed", "--config", "experiments/quickstart/data.yaml", "--clip", "ViT-B-32", "--out", "out"]
    assert main([*words, "--pretrained", str(folder / "evil.pt")]) == 2
    error = capsys.readouterr().err
    assert "pickle that holds more than tensors, and is not run" in error and "Traceback" not in error
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"words": ["a"], "size": 10**12, "context_length": 4},
        {"words": ["a"], "size": 10, "context_length": 10**12},
        {"words": "abc", "size": 10, "context_length": 4},
        {"words": ["a", "a"], "size": 10, "context_length": 4},
        {"words": [["a"]], "size": 10, "context_length": 4},
        {"words": ["a"], "size": True, "context_length": 4},
        [1],
    ],
)
def test_a_vocabulary_is_words(sent, content):
    path = sent / "clip" / "export" / "vocabulary.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"vocabulary\.json is damaged"):
        load_tokenizer(path.parent)


def test_every_architecture_of_open_clip_passes(tmp_path):
    import open_clip

    refused = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        try:
            check_config(tmp_path)
        except InputError as error:
            refused.append((name, str(error)))
    # Text towers of transformers and captioners are loaded by name only.
    assert [name for name, line in refused if "hf_model_name" not in line and "multimodal_cfg" not in line] == []
