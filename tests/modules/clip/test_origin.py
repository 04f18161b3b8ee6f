"""A stage knows whose embeddings it was trained on, and refuses another CLIP's, in training and in sampling."""

import json
import shutil

import pytest
import torch
import yaml

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import open_embeddings
from datamodules.shapes import ShapesDataModule
from experiments.embeddings.embed import embed
from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import KEY, check_origin, same_clip, warn_unknown_origin
from modules.errors import InputError
from modules.linear_prior import LinearPrior
from modules.pipeline import UnCLIP


@pytest.fixture(scope="module")
def others(tiny, tmp_path_factory):
    """Another CLIP's embeddings of the same data."""
    folder = tmp_path_factory.mktemp("others")
    clip = FrozenCLIP(str(tiny.write_clip(folder, seed=1)))
    embed(ShapesDataModule(16, **tiny.SIZES, cache_dir=None), clip, folder / "embeddings", ["train", "val"])
    return folder / "embeddings"


@pytest.fixture(scope="module")
def trained(tiny, embeddings, tmp_path_factory):
    """A linear prior's run folder after one step."""
    root = tmp_path_factory.mktemp("run") / "linear_prior"
    root.mkdir()
    path, network, arguments, _ = tiny.STAGES["linear_prior"]
    config = {"class_path": path, "init_args": {"network": {"class_path": network, "init_args": arguments}}}
    (root / "config.yaml").write_text(yaml.safe_dump({"model": config}))
    module = LinearPrior(tiny.make_network("linear_prior"))
    trainer = tiny.fit(module, EmbeddingsDataModule(str(embeddings), batch_size=8), 1, root)
    trainer.save_checkpoint(root / "last.ckpt", weights_only=False)
    return root


def test_checkpoint_and_export_name_the_clip(trained, embeddings):
    fingerprint = open_embeddings(embeddings).info.clip_fingerprint
    assert torch.load(trained / "last.ckpt", weights_only=True)[KEY] == fingerprint
    assert yaml.safe_load((trained / "export" / "config.yaml").read_text())[KEY] == fingerprint


def test_a_run_does_not_go_on_with_another_clips_embeddings(tiny, trained, others, embeddings, tmp_path):
    def go_on(folder):
        module = LinearPrior(tiny.make_network("linear_prior"))
        return tiny.fit(module, EmbeddingsDataModule(str(folder), batch_size=8), 2, tmp_path, trained / "last.ckpt")

    with pytest.raises(
        InputError, match=r"this checkpoint was trained on embeddings of the CLIP [\w-]+, but the data hold"
    ):
        go_on(others)
    assert go_on(embeddings).global_step == 2


def test_pairs_know_whose_embeddings_they_carry(tiny, embeddings, others):
    for folder in (embeddings, others):
        data = ShapesDataModule(16, **tiny.SIZES, embeddings=str(folder), cache_dir=None)
        assert data.clip_fingerprint == open_embeddings(folder).info.clip_fingerprint
    assert ShapesDataModule(16, cache_dir=None).clip_fingerprint is None


def test_sampling_with_another_clip_is_refused(tiny, trained):
    run = trained.parent
    tiny.write_clip(run / "clip", seed=1)
    with pytest.raises(
        InputError, match=r"the run's linear_prior was trained on embeddings of.*, but the run has the CLIP"
    ):
        UnCLIP(run).stage("linear_prior")
    tiny.write_clip(run / "clip")
    z_t = torch.nn.functional.normalize(torch.randn(2, tiny.DIM), dim=1)
    assert UnCLIP(run).sample_prior("linear_prior", torch.zeros(2, 20, dtype=torch.int64), z_t, []).shape == (
        2,
        tiny.DIM,
    )


def test_what_is_not_known_is_not_checked():
    for pair in ((None, "a"), ("a", None), (None, None), ("a", "a")):
        check_origin(*pair, "x", "y")
    with pytest.raises(InputError, match="x was trained on embeddings of the CLIP a, but y the CLIP b"):
        check_origin("a", "b", "x", "y")


def test_a_clip_of_other_words_is_refused(tiny, trained, tmp_path):
    """The weights are the same: only the words have changed their tokens."""
    run = tmp_path / "run"
    shutil.copytree(trained, run / "linear_prior")
    tiny.write_clip(run / "clip")
    path = run / "clip" / "export" / "vocabulary.json"
    content = json.loads(path.read_text())
    content["words"] = content["words"][::-1]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"the run's linear_prior was trained on embeddings of.*, but the run has the"):
        UnCLIP(run).stage("linear_prior")


def test_a_stage_of_before_words_were_recorded_is_compared_by_weights(tiny, trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run / "linear_prior")
    tiny.write_clip(run / "clip")
    path = run / "linear_prior" / "export" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content[KEY] = content[KEY].partition("-")[0]
    path.write_text(yaml.safe_dump(content))
    assert UnCLIP(run).stage("linear_prior").clip_fingerprint == content[KEY]
    assert capsys.readouterr().err == ""


def test_a_stage_that_records_no_clip_is_used_with_one_warning(tiny, trained, tmp_path, capsys):
    warn_unknown_origin.cache_clear()
    run = tmp_path / "run"
    tiny.write_clip(run / "clip")
    for name in ("linear_prior", "diffusion_prior", "upsampler"):
        tiny.write_stage(run / name, name, tiny.make_network(name))
    for name in ("upsampler", "linear_prior", "diffusion_prior"):
        UnCLIP(run).stage(name)
        if name == "upsampler":
            assert capsys.readouterr().err == ""
    error = capsys.readouterr().err
    assert error.startswith(f"unclip: warning: the stages of {run} do not record which CLIP they were trained on")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a-x", "a", True),
        ("a-x", "a-x", True),
        ("a-x", "a-y", False),
        ("a-x", "b-x", False),
    ],
)
def test_fingerprints_of_one_clip(one, other, same):
    assert same_clip(one, other) is same_clip(other, one) is same
