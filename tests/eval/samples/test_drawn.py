"""How pictures were drawn: from manifests, and in words, by row where rows differ."""

from __future__ import annotations

from eval.samples.drawn import drawn, drawn_notes, settings_of
from eval.tables.main import main_table


def line(scale: float, **prior) -> dict:
    named = {"guidance": {"decoder": scale}, "sampler": {"decoder": "ddim", "upsampler": "ddpm"}}
    named["steps"] = {"decoder": 16, "upsampler": 5}
    return {key: {**value, **({"prior": prior[key]} if key in prior else {})} for key, value in named.items()}


def test_of_manifests():
    found = drawn([line(2.5, guidance=1.0, steps=64), line(2.5, guidance=1.0, steps=64)])
    assert found == {
        "decoder": {"sampler": "ddim", "steps": 16, "guidance": 2.5},
        "upsampler": {"sampler": "ddpm", "steps": 5},
        "prior": {"steps": 64, "guidance": 1.0},
    }
    assert list(found) == ["decoder", "upsampler", "prior"]
    assert drawn([line(2.5), line(3.0)])["decoder"]["guidance"] == [2.5, 3.0]
    assert drawn([{"guidance": {}, "sampler": {}, "steps": {}}, {}]) == {}
    assert drawn([{"sampler": {"prior": None}}]) == {}
    assert settings_of({"sampler": "ddim", "steps": 1}) == "ddim, 1 step"
    assert settings_of({"steps": [1, 2]}) == "1 or 2 steps"


def test_the_main_table_says_it(row):
    rows = [
        row("glide", drawn=drawn([line(3.0)])),
        row("diffusion_prior", drawn=drawn([line(2.5, sampler="ddim", steps=64, guidance=1.0)])),
        row("ar_prior", drawn=drawn([line(2.5, guidance=1.0)])),
        row("real", drawn={}),
    ]
    said = [note for note in main_table(rows).notes if note.startswith("How the pictures were drawn")]
    assert said == [
        "How the pictures were drawn: decoder (GLIDE): ddim, 16 steps, guidance 3;"
        " decoder (AR prior, diffusion prior): ddim, 16 steps, guidance 2.5; upsampler: ddpm, 5 steps;"
        " prior (AR prior): guidance 1; prior (diffusion prior): ddim, 64 steps, guidance 1."
    ]


def test_rows_of_older_releases_do_not_say(row):
    assert drawn_notes([row("glide"), row("real")]) == [] == drawn_notes([row("real", drawn={})])
    mixed = drawn_notes([row("glide"), row("ar_prior", drawn=drawn([line(2.5)]))])
    assert mixed == [
        "How the pictures were drawn: decoder: ddim, 16 steps, guidance 2.5; upsampler: ddpm, 5 steps."
        " Not recorded (measure again): GLIDE."
    ]
