"""Whom to name: read from exports, joined without repetition, and handed on by weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modules.models.licences import (
    MAX_TEXT,
    Licence,
    attribution_behind,
    attribution_of,
    attribution_of_run,
    joined,
    licence_behind,
    licence_of_both,
)

NOTO, TWEMOJI = "Noto by Google (Apache 2.0)", "Twemoji by Twitter (CC BY 4.0)"


@pytest.fixture
def export(tmp_path: Path):
    """Makes RUN/STAGE/export whose config.yaml has an attribution, if one is given; returns RUN/STAGE."""

    def made(stage: str, said: object = None) -> Path:
        folder = tmp_path / "run" / stage / "export"
        folder.mkdir(parents=True)
        about = {"class_path": "modules.decoder.Decoder", "init_args": {}} | (
            {} if said is None else {"attribution": said}
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(about))
        (folder / "model.safetensors").write_bytes(b"")
        return folder.parent

    return made


def test_a_name_is_said_once_however_often_it_comes():
    assert joined([f"{NOTO}; {TWEMOJI}", None, TWEMOJI, f"{TWEMOJI}; {NOTO}"]) == f"{NOTO}; {TWEMOJI}"
    assert joined([None, ""]) is None
    assert joined([3, NOTO]) == f"3; {NOTO}"  # A stranger's manifest may hold anything.


def test_names_that_do_not_fit_are_left_out():
    many = joined(f"author {k} " + "x" * 300 for k in range(100))
    assert many is not None and len(many) <= MAX_TEXT and many.startswith("author 0 ")


@pytest.mark.parametrize("said", [3, ["a"], {"a": 1}, ""])
def test_what_is_no_text_is_nobody(export, said):
    assert attribution_of(export("decoder", said) / "export") is None


def test_a_strangers_text_is_one_line_of_bounded_length(export):
    found = attribution_of(export("decoder", "a\n# b\x1b[31m" + "\x07" * 5000) / "export")
    assert found is not None and len(found) <= MAX_TEXT
    assert found.isprintable()


def test_a_run_names_whom_its_stages_name(export, tmp_path):
    export("clip")
    export("decoder", f"{NOTO}; {TWEMOJI}")
    export("upsampler", NOTO)
    assert attribution_of_run(tmp_path / "run") == f"{NOTO}; {TWEMOJI}"
    assert attribution_of_run(tmp_path / "nothing") is None


def test_weights_hand_it_on_to_what_is_trained_from_them(export):
    stage = export("decoder", NOTO)
    places = (stage, stage / "export", stage / "export" / "model.safetensors", stage / "checkpoints" / "last.ckpt")
    assert {attribution_behind(str(place)) for place in places} == {NOTO}
    assert attribution_behind("shipped:shapes/decoder") is None
    assert licence_behind("shipped:shapes/decoder").name == "mit"


MIT, KIND, OTHER = (
    Licence(name, f"text of {name}", f"the {name} weights") for name in ("MIT", "kind-1.0", "other-2.0")
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([None, None], None),
        ([MIT, None], MIT),
        ([MIT, KIND], KIND),
        ([KIND, MIT], KIND),
        ([KIND, KIND], KIND),
    ],
)
def test_of_weights_from_two_places_the_one_that_binds_counts(found, expected):
    assert licence_of_both(found) == expected


def test_two_licences_that_bind_are_both_told():
    both = licence_of_both([KIND, OTHER])
    assert (both.name, both.of) == ("other", "the kind-1.0 weights and the other-2.0 weights")
    assert "text of kind-1.0" in both.text and "text of other-2.0" in both.text
