"""`--best-of`: the manifest says what was chosen by whom, and a CLIP that conditions, guides or judges is refused."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from eval.errors import InputError as EvalError
from eval.samples.conditions import colour, in_order, label, rows_in
from eval.samples.folder import SampleFolder
from experiments.cli import main
from experiments.evaluation.judges import refuse_named_clip
from experiments.sampling.ranking import ranking_clip
from modules import shipped
from modules.clip.frozen import FrozenCLIP
from modules.conditions import CONDITIONS, ranked, row_name
from modules.errors import InputError
from modules.pipeline import UnCLIP

CAPTIONS = ["a small red circle", "a large blue square"]


@pytest.fixture(scope="module")
def rank_clip(tiny, tmp_path_factory):
    return tiny.write_clip(tmp_path_factory.mktemp("rank"), seed=9)


@pytest.fixture
def words(stored_run, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    return ["sample", "--run", str(stored_run), "--captions", str(tmp_path / "captions.txt"), "--no-upsample",
            "--condition", "dalle", "--out", str(tmp_path / "drawn")]  # fmt: skip


def test_the_best_of_n_is_drawn_and_the_manifest_says_so(words, stored_run, rank_clip, tmp_path, capsys):
    assert main([*words, "-n", "2", "--best-of", "3", "--rank-clip", str(rank_clip)]) == 0
    assert "condition dalle_best_of_3" in capsys.readouterr().out
    folder = SampleFolder.open(tmp_path / "drawn")
    own = FrozenCLIP(str(rank_clip))
    assert folder.condition == "dalle_best_of_3"
    assert {(r["best_of"], r["rank_clip"]) for r in folder.records} == {(3, own.fingerprint)}
    system = UnCLIP(stored_run)
    system.ranking_clip = own
    places = [(k, j) for k in range(2) for j in range(2)]
    expected = system.generate(folder.captions, "dalle", 0, places, upsample=False, candidates=3)
    assert (folder.images().int() - ((expected + 1) * 127.5).round().int()).abs().max() <= 1
    plain = system.generate(folder.captions, "dalle", 0, places, upsample=False)
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize("condition", ["dalle", "image_embedding"])
def test_several_candidates_drawn_at_once_are_those_drawn_one_by_one(stored_run, rank_clip, condition):
    system = UnCLIP(stored_run)
    system.ranking_clip = FrozenCLIP(str(rank_clip))
    side = system.decoder("decoder").image_size
    true = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    given = (CAPTIONS, condition, 0, [(0, 0), (1, 0)], 5, true if condition == "image_embedding" else None)
    one, several = system.ranked(*given), system.ranked(*given, at_once=5)
    assert one.places == several.places
    torch.testing.assert_close(several.pictures, one.pictures, atol=1e-5, rtol=0)
    assert several.count == 5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--best-of", "4"], "--rank-clip None"),
        (["--rank-clip", "OTHER"], "give both"),
        (["--best-of", "2", "--rank-clip", "RUN/clip"], "conditioned on"),
        (["--best-of", "2", "--rank-clip", "OTHER", "--condition", "dvae_reconstruction"], "draws nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(words, stored_run, rank_clip, extra, message, capsys):
    names = {"OTHER": str(rank_clip), "RUN/clip": str(stored_run / "clip")}
    assert main([*words, *(names.get(word, word) for word in extra)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_clip_is_ranked_too_but_not_by_the_clip_that_guides(stored_run, rank_clip, tmp_path):
    """As a run of GLIDE's released weights, which read captions by themselves."""
    shutil.copytree(stored_run / "glide", tmp_path / "run" / "glide")
    system = UnCLIP(tmp_path / "run")
    found = ranking_clip(system, str(rank_clip))
    assert found.fingerprint == FrozenCLIP(str(rank_clip)).fingerprint
    system.guiding_clip = found
    with pytest.raises(InputError, match="guides the decoder"):
        ranking_clip(system, str(rank_clip))


def test_a_judge_is_refused_by_sampling_and_a_ranking_clip_by_evaluation(
    words, stored_run, rank_clip, tmp_path, capsys, monkeypatch
):
    shutil.copytree(stored_run, tmp_path / "run")
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    shutil.copytree(rank_clip, tmp_path / "tiny" / "clip")
    shutil.copytree(stored_run / "decoder" / "export", tmp_path / "tiny" / "decoder")
    shutil.copytree(rank_clip, tmp_path / "run" / "eval_clip" / "export")
    words[words.index(str(stored_run))] = str(tmp_path / "run")
    for name in (str(rank_clip), "shipped:tiny"):
        assert main([*words, "--best-of", "2", "--rank-clip", name]) == 2
        assert "judges the run's pictures" in capsys.readouterr().err
    judge = SimpleNamespace(fingerprint="abcd1234")
    folder = SimpleNamespace(path="drawn", records=[{"clip": "other", "rank_clip": "abcd1234ffff"}])
    with pytest.raises((InputError, EvalError), match="was chosen by"):
        refuse_named_clip("x", judge, [folder])


def test_rows_of_ranked_pictures_have_their_place_label_and_colour(tmp_path):
    assert row_name("dalle", 16) == "dalle_best_of_16" and row_name("dalle") == "dalle"
    assert ranked("dalle_best_of_16") == ("dalle", 16)
    for name in ("dalle", "what_best_of_4", "dalle_best_of_1", "dalle_best_of_x"):
        assert ranked(name) == (name, 1)
    assert label("dalle_best_of_16") == "DALL-E, best of 16"
    assert colour("dalle_best_of_16") == CONDITIONS["dalle"].colour and colour("what") is None
    for name in ("real", "dalle_best_of_16", "dalle_best_of_4", "reference", "dalle", "caption_only"):
        (tmp_path / name).mkdir()
    order = ["caption_only", "dalle", "dalle_best_of_4", "dalle_best_of_16", "real"]
    assert rows_in(tmp_path) == order
    rows = [{"condition": name} for name in sorted(order)]
    assert [row["condition"] for row in in_order(rows)] == order
    assert rows_in(tmp_path / "absent") == []
