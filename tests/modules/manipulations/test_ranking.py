"""Re-ranking: the best of N is the best, the candidates of fewer are among those of more, and no CLIP judges itself."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.errors import InputError
from modules.manipulations.ranking import STRIDE, best_of, candidate_places, check_ranking_clip
from modules.pipeline import UnCLIP

PLACES = [(0, 0), (0, 1), (7, 0)]


def draw(places):
    """A picture whose value says which candidate of which picture it is."""
    values = [caption * 100 + sample % STRIDE * 10 + sample // STRIDE for caption, sample in places]
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def scores(table):
    """Scores by a table: a row for each picture, a column for each candidate."""
    places = {(caption, sample): k for k, (caption, sample) in enumerate(PLACES)}

    def score(pictures):
        found = []
        for value in pictures.flatten().int().tolist():
            caption, sample, candidate = value // 100, value % 100 // 10, value % 10
            found.append(table[places[caption, sample]][candidate])
        return torch.tensor(found)

    return score


TABLE = [[0.1, 0.9, 0.3, 0.9], [0.5, 0.4, 0.3, 0.2], [0.0, 0.1, 0.2, 0.3]]


@pytest.mark.parametrize(("count", "best"), [(1, [0, 0, 0]), (2, [1, 0, 1]), (3, [1, 0, 2]), (4, [1, 0, 3])])
def test_the_candidate_of_the_highest_score_is_kept(count, best):
    found = best_of(count, PLACES, draw, scores(TABLE))
    assert found.pictures.flatten().tolist() == [best[0], 10 + best[1], 700 + best[2]]
    assert found.scores.tolist() == pytest.approx([row[k] for row, k in zip(TABLE, best, strict=True)])
    assert found.places == [(c, s + k * STRIDE) for (c, s), k in zip(PLACES, best, strict=True)]
    assert found.count == count


@pytest.mark.parametrize("together", [2, 3, 9])
def test_candidates_that_are_drawn_together_are_the_same(together):
    calls = []

    def counted(places):
        calls.append(len(places))
        return draw(places)

    one, several = (
        best_of(4, PLACES, draw, scores(TABLE)),
        best_of(4, PLACES, counted, scores(TABLE), together=together),
    )
    assert torch.equal(several.pictures, one.pictures) and several.places == one.places and several.count == 4
    assert calls == {2: [6, 6], 3: [9, 3], 9: [12]}[together]


def test_going_on_from_fewer_candidates_is_the_same_and_draws_the_new_ones_alone():
    drawn = []

    def counted(places):
        drawn.append(places)
        return draw(places)

    two = best_of(2, PLACES, counted, scores(TABLE))
    four = best_of(4, PLACES, counted, scores(TABLE), two)
    whole = best_of(4, PLACES, draw, scores(TABLE))
    assert torch.equal(four.pictures, whole.pictures) and four.places == whole.places
    assert drawn == [candidate_places(PLACES, k) for k in range(4)]
    assert best_of(2, PLACES, counted, scores(TABLE), two).places == two.places
    with pytest.raises(ValueError, match="cannot become"):
        best_of(2, PLACES, draw, scores(TABLE), four)


@pytest.mark.parametrize("condition", ["dalle", "diffusion_prior", "glide"])
def test_every_condition_is_ranked_and_the_first_candidate_is_the_plain_picture(stored_run, tiny, tmp_path, condition):
    from modules.clip.frozen import FrozenCLIP

    system = UnCLIP(stored_run)
    system.ranking_clip = FrozenCLIP(str(tiny.write_clip(tmp_path / "rank", seed=5)))
    captions = ["a red circle", "a blue square on a white background"]
    plain = system.generate(captions, condition, upsample=False)
    pool = [system.draw_low(captions, condition, 0, candidate_places([(0, 0), (1, 0)], k)) for k in range(3)]
    assert torch.equal(pool[0], plain)
    values = torch.stack([system.similarity(captions, system.ranking_clip)(images) for images in pool])
    found = system.generate(captions, condition, upsample=False, candidates=3)
    expected = torch.stack([pool[int(k)][row] for row, k in enumerate(values.argmax(0))])
    assert torch.equal(found, expected)
    system.ranking_clip = None
    with pytest.raises(InputError, match="--rank-clip"):
        system.generate(captions, condition, candidates=2)


@pytest.mark.parametrize(("name", "role"), [("clip", "conditioned on"), ("eval_clip", "judges")])
def test_a_clip_that_conditions_or_judges_is_refused(stored_run, tiny, tmp_path, name, role):
    run = tmp_path / "run"
    shutil.copytree(stored_run / "clip", run / "clip")
    tiny.write_clip(run / "eval_clip", seed=1)
    shutil.copytree(run / name, tmp_path / "other")
    with pytest.raises(InputError, match=role):
        check_ranking_clip(str(tmp_path / "other" / "export"), run)
    weights = tmp_path / "other" / "export" / "open_clip_model.safetensors"
    save_file(load_file(weights), weights, metadata={"written": "anew"})  # Other bytes, the same CLIP.
    with pytest.raises(InputError, match=role):
        check_ranking_clip(str(tmp_path / "other"), run)
    check_ranking_clip(str(tiny.write_clip(tmp_path / "third", seed=2)), run)
