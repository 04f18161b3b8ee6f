"""The paper's tables: published numbers as published, ours beside them with their protocol, in three formats."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from eval.errors import InputError
from eval.judges.features import NO_INCEPTION
from eval.tables import published as paper
from eval.tables.main import Cell, Table
from eval.tables.paper import ablation_table, binding_table, table_1, table_2, table_3
from eval.tables.sweeps import Sweep


def texts(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_table_1_with_and_without_votes():
    paper = table_1(None)
    assert texts(paper)["unCLIP, diffusion prior (paper)"] == ["48.9 %", "45.3 %", "70.5 %"]
    assert paper.rows[0][3].interval == "± 3.0" and "no votes have been collected" in paper.notes[-1]
    votes = {"ar_prior": {"photorealism": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 96, "unsure": 7}}}
    table = table_1(votes)
    assert table.rows[-1] == [Cell("AR prior"), Cell("50.0 %", "[40.0, 60.0]"), Cell("–"), Cell("–")]
    assert "AR prior photorealism 96 (7)." in table.notes[-1]


def test_what_the_paper_published():
    """Every number of it once more, typed from the paper."""
    assert paper.TABLE_1 == {
        "unCLIP, AR prior": ((47.1, 3.1), (41.1, 3.0), (62.6, 3.0)),
        "unCLIP, diffusion prior": ((48.9, 3.1), (45.3, 3.0), (70.5, 2.8)),
    }
    published = """
        AttnGAN 35.49 – –, DM-GAN 32.64 – –, DF-GAN 21.42 – –, DM-GAN + CL 20.79 – –, XMC-GAN 9.33 – –,
        LAFITE 8.12 26.94 –, Make-A-Scene 7.55 – 11.84, DALL-E – ~28 –, GLIDE – 12.24 12.89,
        unCLIP; AR prior – 10.63 11.08, unCLIP; diffusion prior – 10.39 10.87
    """
    rows = [line.replace(";", ",").rsplit(maxsplit=3) for line in published.split(",")]
    assert [[r[0].text, *(c.text for c in r[1:4])] for r in table_2([]).rows] == [
        [f"{' '.join(name.split())} (paper)", *cells] for name, *cells in rows
    ]
    assert paper.ABLATION == {"text_decoder": 9.16, "unclip": 7.99, "text_embedding": 16.55}


def test_table_2(row):
    table = table_2([row("ar_prior", fid={"value": 30, "low": 29, "high": 32})])
    assert texts(table)["AR prior"] == ["–", "–", "–", "30.00", "1.50"]
    assert "30,000 captions" in table.notes[0] and "n = 512 against 1024" in table.notes[1]
    assert table.notes[1].endswith("the numbers of the two cannot be compared.")


@pytest.mark.parametrize(
    ("name", "n", "column"),
    [
        ("coco-zero-shot-30k 01234567", 30000, 1), ("coco-zero-shot-30k-filtered 01234567", 30000, 2),
        ("coco-zero-shot-30k 01234567", 512, 3), ("dry 01234567", 30000, 3), (None, 30000, 3),
    ],
)  # fmt: skip
def test_ours_stands_in_a_column_of_the_papers_by_its_protocol_only(row, name, n, column):
    ours = row("ar_prior", fid={"value": 30, "low": 29, "high": 32})
    ours["protocol"] |= {"caption_protocol": name, "n": n, "size": [256, 256]}
    table = table_2([ours])
    cells = [cell.text for cell in table.rows[-1][1:5]]
    assert cells[column] == "30.00" and cells.count("–") == 3
    assert ("cannot be compared" in table.notes[1]) == (column == 3) and (name or "") in table.notes[1]


def test_inception_that_is_not_there_is_said_once(row):
    ours = row("ar_prior", fid=None)
    ours["protocol"]["inception"] = NO_INCEPTION
    assert "; FID: not measured (FID with Inception features is left out: put" in table_2([ours]).notes[1]


def stage(run: Path, name: str, model: dict, batch_size: int = 32, **trainer) -> Path:
    config = {
        "model": {"init_args": model}, "data": {"init_args": {"batch_size": batch_size}}, "trainer": trainer
    }  # fmt: skip
    (run / name).mkdir(parents=True)
    (run / name / "config.yaml").write_text(yaml.safe_dump(config))
    return run / name


def test_table_3_of_stages_that_were_given_away(tmp_path: Path):
    """`unclip export` writes the model's settings and its steps, and the weights beside them."""
    (tmp_path / "decoder").mkdir()
    config = {"class_path": "modules.decoder.Decoder", "init_args": {"sampler": {"name": "ddim", "steps": 16}}}
    (tmp_path / "decoder" / "config.yaml").write_text(yaml.safe_dump({**config, "step": 48}))
    save_file({"a": np.zeros((200, 50))}, tmp_path / "decoder" / "model.safetensors")
    rows = {row[0].text: row[1:] for row in table_3(tmp_path).rows}
    assert rows["sampler"][2] == Cell("ddim") and rows["sampling steps"][2] == Cell("16", "(250)")
    assert rows["iterations"][2] == Cell("48", "(800,000)") and rows["parameters"][2] == Cell("10,000", "(3.5 B)")
    assert rows["batch size"][2] == Cell("–", "(2,048)")  # That is the training's.


def test_table_3(tmp_path: Path):
    unet = {"channels": 32, "channel_multipliers": [1, 2], "depth": 1, "attention_resolutions": [4],
            "head_channels": 16, "dropout": 0.1}  # fmt: skip
    network = {"unet": unet, "text_width": 64, "text_depth": 2, "text_heads": 2, "context_length": 20, "channels": 3}
    decoder = {
        "network": {"init_args": network},
        "objective": {"num_steps": 1000, "schedule": "cosine"},
        "sampler": {"name": "ddim", "steps": 16},
        "optimizer": {"init_args": {"lr": 0.002, "betas": [0.9, 0.99]}},
        "training": {"ema_decay": 0.995},
    }
    trained = stage(tmp_path, "decoder", decoder, max_steps=48, devices=2, accumulate_grad_batches=3)
    (trained / "export").mkdir()
    save_file({"a": np.zeros((200, 50)), "b": np.zeros(5000)}, trained / "export" / "model.safetensors")
    prior = {"num_codes": 32, "context_length": 20, "width": 128, "depth": 3, "heads": 4}
    stage(tmp_path, "ar_prior", {"network": {"init_args": prior | {"text_width": None, "text_depth": 0}}})
    stage(tmp_path, "diffusion_prior", {"network": {"init_args": prior}})
    stage(tmp_path, "upsampler", {"crop": 0.25})
    table = table_3(tmp_path)
    sizes = ["decoder (the paper's: 64)", "upsampler (the paper's: 64 -> 256)"]
    assert table.columns == ["", "AR prior", "diffusion prior", *sizes, "second upsampler (the paper's: 256 -> 1024)"]
    rows = {r[0].text: r[1:] for r in table.rows}
    assert rows["channels"][2] == Cell("32", "(512)") and rows["channel multipliers"][2] == Cell("1,2", "(1,2,3,4)")
    assert rows["parameters"][2] == Cell("15,000", "(3.5 B)") and rows["Adam beta2"][2] == Cell("0.99", "(0.999)")
    assert rows["dropout"][2] == Cell("0.1", "(0.1)") and rows["head channels"][2] == Cell("16", "(64)")
    assert rows["batch size"][2] == Cell("192", "(2,048)")  # of two devices, three batches a step
    assert [c.text for c in rows["text width"][:3]] == ["–", "128", "64"]
    assert [c.text for c in rows["text depth"][:3]] == ["–", "3", "2"] and rows["text depth"][2].interval == "(24)"
    latent = [rows[f"latent decoder {what}"][0].text for what in ("context", "width", "depth", "heads")]
    assert latent == ["54", "128", "3", "4"] and rows["latent decoder width"][1] == Cell("–", "")
    assert rows["crop fraction"][3] == Cell("0.25", "(0.25)") and rows["crop fraction"][4] == Cell("–", "(0.25)")
    assert rows["sampler"][2] == Cell("ddim") and rows["iterations"][4] == Cell("–", "(1,000,000)")  # not trained here
    (trained / "config.yaml").write_text("[]")
    with pytest.raises(InputError, match=r"cannot read .*config\.yaml"):
        table_3(tmp_path)


def test_ablation_takes_the_best_of_each(guidance):
    table = ablation_table(Sweep(**guidance))
    assert table.rows[0][:3] == [Cell("GLIDE"), Cell("guidance 1.5"), Cell("5.00", "[4.99, 5.02]")]
    assert table.rows[1][2].text == "3.00" and table.rows[1][-1].text == "7.99" and table.rows[0][-1].text == "–"
    assert any("decoder trained on z_t: the run has no" in note for note in table.notes)


def test_binding(row):
    value = {"value": 0.25, "low": 0.1, "high": 0.5}
    kinds = {"n": 7, "bound": value, "swapped": value, "missing": {**value, "value": 0.5}}
    table = binding_table([row("glide", binding={"colour and shape": kinds}), row("real")])
    assert table.rows == [[
        Cell("GLIDE"), Cell("colour and shape"), Cell("7"), Cell("0.25", "[0.10, 0.50]"), Cell("0.25", "[0.10, 0.50]"),
        Cell("0.50", "[0.10, 0.50]"),
    ]]  # fmt: skip
    assert "nothing to judge" in binding_table([row("real")]).notes[0]


TABLE = Table(
    "50 % & more_", ["name", "x ↓"], [[Cell("a|b"), Cell("1.5", "[1, 2]")], [Cell("c"), Cell("–")]], ["n = 3"]
)


def test_latex():
    text = TABLE.latex()
    assert r"\caption{50 \% \& more\_}" in text and r"name & x $\downarrow$ \\" in text
    assert r"a\textbar{}b & 1.5 [1, 2] \\" in text and r"c & -- \\" in text and r"\begin{tabular}{lr}" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2 and "n = 3" in text
    assert text.count("{") == text.count("}") and r"\begin{table*}" in text and r"\resizebox" in text
    assert r"\footnotesize" not in text.partition(r"\end{tabular}")[0]
    signs = Table("", ["a < b > c", "a − b"], [[Cell("x")] * 2] * 31).latex()
    assert r"a \textless{} b \textgreater{} c & a $-$ b" in signs
    assert r"\footnotesize" in signs.partition(r"\end{tabular}")[0]


def test_csv():
    found = list(csv.reader(io.StringIO(TABLE.csv())))
    assert found == [["name", "x ↓", "x ↓ low", "x ↓ high"], ["a|b", "1.5", "1", "2"], ["c", "", "", ""]]
    cells = [Cell("48.9 %", "± 3.1"), Cell("50.0 %", "[45.0, 55.0]"), Cell("–")]
    table = Table("", ["model", "won", "depth"], [[Cell("a"), cell, Cell("2", "(4)")] for cell in cells])
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["model", "won (%)", "won low", "won high", "depth", "depth beside"],
        ["a", "48.9", "45.8", "52.0", "2", "4"],
        ["a", "50.0", "45.0", "55.0", "2", "4"],
        ["a", "", "", "", "2", "4"],
    ]
    assert Table("", ["a", "b"], []).csv() == "a,b\n"
