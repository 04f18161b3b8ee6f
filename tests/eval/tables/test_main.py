"""Tables: order, dashes, intervals, notes, and the refusal to mix protocols."""

from __future__ import annotations

import copy
import io

import pytest

from eval.errors import InputError
from eval.judges.features import NO_INCEPTION
from eval.tables.main import (
    CEILING,
    CONDITIONS,
    Cell,
    Table,
    check_protocols,
    main_table,
    probe_table,
    seconds_table,
)


def test_main_table(row):
    table = main_table([row("real", 0.987), row("glide"), row("caption_only", clip_score=None)])
    assert table.columns == ["condition", "n", "Frechet ↓", "CLIP score ↑", "colour ↑", "all ↑", "diversity"]
    assert [line[0].text for line in table.rows] == ["caption only", "GLIDE", "real images (floor)"]
    assert table.rows[1] == [
        Cell("GLIDE"), Cell("512"), Cell("1.50", "[1.49, 1.52]"), Cell("0.300", "[0.290, 0.320]"),
        Cell("0.50", "[0.49, 0.52]"), Cell("0.25", "[0.24, 0.27]"), Cell("2.00", "[1.99, 2.02]"),
    ]  # fmt: skip
    assert table.rows[0][3] == Cell("–")
    notes = "\n".join(table.notes)
    expected = ["n = 512", "256 captions, 2 samples each", "1000 draws", "1024 real images", "eval_clip 34cd"]
    expected += ["attribute classifier 12ab, 64 features", "on real images: colour 0.987, all 0.250", NO_INCEPTION]
    for words in expected:
        assert words in notes


def test_all_conditions_in_the_order_of_the_table_of_conditions(row):
    table = main_table([row(name) for name in reversed(CONDITIONS)])
    assert CEILING in table.notes and CEILING not in main_table([row("glide")]).notes
    assert [line[0].text for line in table.rows] == list(CONDITIONS.values())
    names = "caption_only glide text_embedding linear_prior ar_prior diffusion_prior image_embedding real"
    assert [name for name in CONDITIONS if name in names.split()] == names.split()


def test_columns_that_nobody_measured_are_left_out(row):
    table = main_table([row("glide", None, clip_score=None, diversity=None)])
    assert table.columns == ["condition", "n", "Frechet ↓", "diversity"] and table.rows[0][-1] == Cell("–")
    assert not any("classifier; its own" in note for note in table.notes)
    protocol = {**row("glide")["protocol"], "inception": "Inception-v3"}
    with_fid = main_table([row("glide", fid={"value": 20, "low": 19, "high": 22}, protocol=protocol)])
    assert with_fid.columns[3] == "FID ↓" and with_fid.rows[0][3].text == "20.00"
    assert "FID: Inception-v3, against the same real images." in with_fid.notes


def test_without_a_row_of_real_images_the_classifier_is_unproven(row):
    assert any("not measured (no row of real images)" in note for note in main_table([row("glide")]).notes)


def test_seed_and_resizing_are_said(row):
    given = row("glide")
    notes = main_table([given]).notes
    assert "1000 draws (seed 0)." in notes[0] and not any("128 x 64 px" in note for note in notes)
    given["protocol"] |= {"size": [64, 128], "resizing": "bilinear, antialiased"}
    said = "All pictures have 128 x 64 px."
    assert said in main_table([given]).notes


def test_shared_images_are_confessed(row):
    notes = main_table([row("real", shared_with_reference=256), row("glide", shared_with_reference=0)]).notes
    assert [note for note in notes if "shares" in note] == [
        "real shares 256 of its 512 images with the reference: its Frechet distance is too small."
    ]


@pytest.mark.parametrize("key", ["n", "extractor", "reference_digest", "seed", "clip"])
def test_protocols_are_not_mixed(row, key: str):
    rows = [row("glide"), row("real")]
    rows[1]["protocol"][key] = "other"
    with pytest.raises(InputError, match=f"glide was measured with {key} = .* and real with 'other'"):
        main_table(rows)
    del rows[1]["protocol"][key]
    with pytest.raises(InputError, match="and real with None"):
        check_protocols(rows)
    assert check_protocols([rows[0], copy.deepcopy(rows[0])]) == row("glide")["protocol"]


def test_a_clip_is_its_weights_whatever_its_folder_is_called(row):
    rows = [row("glide"), row("real")]
    rows[1]["protocol"]["clip"] = "export 34cd"
    assert check_protocols(rows)["clip"] == "eval_clip 34cd"
    rows[1]["protocol"]["clip"] = None
    with pytest.raises(InputError, match="with clip = 'eval_clip 34cd' and real with None"):
        check_protocols(rows)


def test_markdown():
    table = Table("Title", ["a", "b|c"], [[Cell("x"), Cell("1", "[0, 2]")]], ["a note"])
    assert table.markdown() == "## Title\n\n| a | b\\|c |\n| --- | --- |\n| x | 1 [0, 2] |\n\n- a note\n"


@pytest.mark.parametrize(("width", "intervals"), [(200, True), (140, False)])
def test_terminal(row, width: int, intervals: bool):
    from rich.console import Console

    out, names = io.StringIO(), ("colour", "shape", "size", "background", "count", "relation", "all")
    interval = row("glide")["diversity"]
    rows = [{**row(condition), "accuracy": dict.fromkeys(names, interval)} for condition in CONDITIONS]
    main_table(rows).print(Console(file=out, width=width))
    text = out.getvalue()
    assert ("[1.49, 1.52]" in text) == intervals
    assert "1.50" in text and "n = 512" in text and "…" not in text  # nothing is cut off
    assert all(label in text for label in CONDITIONS.values())


def test_small_tables():
    assert seconds_table({"clip": 95.4, "decoder": 3725}).rows == [
        [Cell("clip"), Cell("0:01:35")], [Cell("decoder"), Cell("1:02:05")],
    ]  # fmt: skip
    assert seconds_table({"clip": 95.4, "decoder": 3725}).notes == ["in all 1:03:40 of stages; some ran side by side"]
    assert seconds_table({}).notes == ["no stage has been recorded"]
    assert probe_table({"colour": 0.9123, "n": "x"}).rows == [[Cell("colour"), Cell("0.912")]]
    counted = probe_table({"colour": 0.5, "train_pairs": 8000, "test_pairs": 2000})
    assert counted.rows == [[Cell("colour"), Cell("0.500")]]
    assert counted.notes[1] == "The probe was fitted on 8,000 pairs, judged on 2,000 pairs."
    assert probe_table({}).notes == ["no probe has been recorded"]
    assert main_table([]).notes == ["nothing has been evaluated yet: `unclip evaluate`"]


def test_intervals_of_few_draws_are_told(row):
    """FID has 2,048 dimensions: from 239 samples on, its interval is of 20 draws, whatever the protocol says."""

    def told(n: int, dim: int, draws: int = 1000, **metrics) -> list[str]:
        given = row("glide", **metrics)
        given["protocol"] |= {"n": n, "extractor_dim": dim, "bootstrap": draws}
        return [note for note in main_table([given]).notes if "spread of 20 draws" in note]

    fid = {"fid": row("glide")["diversity"]}
    assert told(239, 64, **fid)[0].startswith("The intervals of FID are Student's, of the spread of 20 draws:")
    assert told(239, 64) == told(238, 64, **fid) == told(239, 64, 20, **fid) == []
    assert told(512, 2048)[0].startswith("The intervals of the Frechet distance are")
    assert told(512, 2048, **fid)[0].startswith("The intervals of the Frechet distance and FID are")
