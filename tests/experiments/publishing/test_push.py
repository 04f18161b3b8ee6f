"""A run sent to a model hub and drawn from there, against a hub of the test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import main
from modules.errors import InputError
from modules.pipeline import UnCLIP
from modules.shipped import run_folder
from modules.untrusted.hub import is_repository


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)


@pytest.fixture(scope="module")
def trained(stored_run, tmp_path_factory):
    """The run with the configs that training leaves beside the exports."""
    run = shutil.copytree(stored_run, tmp_path_factory.mktemp("pushed") / "tiny")
    for folder in run.iterdir():
        there = folder / "export" / "config.yaml"
        model = yaml.safe_load(there.read_text()) if there.exists() else {"class_path": "modules.clip.CLIPTrainer"}
        data = {"class_path": "datamodules.shapes.ShapesDataModule", "init_args": {"image_size": 16}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 9}, "model": model, "data": data}))
    return run


def pushed(run: Path, *words: str) -> list[str]:
    return ["export", str(run), "--out", "sent", "--push", "somebody/shapes", *words]


def test_a_run_that_was_pushed_draws_the_same_from_the_hub(hub, trained, capsys):
    assert main(pushed(trained, "--private")) == 0
    assert f"{hub.address}/somebody/shapes/commit/" in capsys.readouterr().out
    assert hub.private == {"somebody/shapes"}
    card = hub.state("somebody/shapes", "main")[1]["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "unclip" and 'UnCLIP.from_run("somebody/shapes")' in card
    assert "--run somebody/shapes --out" in card
    there, here = UnCLIP.from_run("somebody/shapes"), UnCLIP.from_run(trained)
    captions = ["a red circle"]
    assert torch.equal(there.generate(captions, seed=2), here.generate(captions, seed=2))
    assert "run: somebody/shapes of the hub, revision " in capsys.readouterr().err


def test_only_files_of_known_names_are_fetched(hub, trained):
    assert main(pushed(trained, "--stages", "clip,decoder")) == 0
    bad = dict.fromkeys(("decoder/model.py", "decoder/pytorch_model.bin", "setup.sh", "clip/x.pt"), b"code")
    first = list(hub.repositories["somebody/shapes"])[-1]
    hub.commit("somebody/shapes", bad)
    folder = run_folder("somebody/shapes")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not names & bad.keys() and not set(hub.asked) & bad.keys()
    assert {"README.md", "decoder/model.safetensors", "clip/vocabulary.json"} <= names
    assert folder.name != first and run_folder(f"somebody/shapes@{first}").name == first


def test_what_comes_from_the_hub_passes_the_allow_list(hub, trained):
    assert main(pushed(trained, "--stages", "clip,decoder")) == 0
    config = yaml.safe_load(hub.state("somebody/shapes", "main")[1]["decoder/config.yaml"])
    config["init_args"]["network"]["class_path"] = "subprocess.Popen"
    hub.commit("somebody/shapes", {"decoder/config.yaml": yaml.safe_dump(config).encode()})
    with pytest.raises(InputError, match=r"subprocess.Popen is none of this project's classes"):
        UnCLIP.from_run("somebody/shapes").decoder()


def test_a_hub_that_has_it_not_and_one_that_is_not_there(hub, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(InputError, match=r"no run folder nobody/nothing here.*RepositoryNotFound"):
        UnCLIP.from_run("nobody/nothing")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="Without internet, download"):
        UnCLIP.from_run("somebody/else")


def test_what_was_fetched_is_there_without_the_hub(hub, trained, monkeypatch):
    from huggingface_hub import constants

    assert main(pushed(trained, "--stages", "decoder")) == 0
    before = run_folder("somebody/shapes")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert run_folder("somebody/shapes") == before


def test_paths_are_not_looked_for_on_the_hub(hub, tmp_path):
    (tmp_path / "mine").mkdir()
    for text in ("runs/quickstart", "mine/decoder", "/tmp/x", "a/b/c", "alone", "../up/x", "x/", "shipped:shapes"):
        assert not is_repository(text), text
    assert is_repository("somebody/shapes") and is_repository("somebody/shapes@v1.0")
    assert str(run_folder(Path("somebody/shapes"))) == "somebody/shapes"  # A Path is a path.


def test_a_push_without_a_login_or_a_name_writes_nothing(hub, trained, monkeypatch, capsys, tmp_path):
    from huggingface_hub import constants

    assert main(["export", str(trained), "--out", "sent", "--push", "shapes"]) == 2
    assert "--push takes USER/NAME" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(pushed(trained)) == 2
    assert "hf auth login" in capsys.readouterr().err and not Path("sent").exists()


def test_a_hub_that_refuses_leaves_the_folder(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(pushed(trained, "--stages", "decoder")) == 2
    line = capsys.readouterr().err
    assert "sent is written, but the hub did not take it" in line and "hf_wrong" not in line
    assert Path("sent/decoder/model.safetensors").is_file()
