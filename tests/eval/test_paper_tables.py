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
from eval.paper_tables import ablation_table, binding_table, table_1, table_2, table_3
from eval.sweeps import Sweep
from eval.tables import Cell, Table


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


def test_table_2(row):
    table = table_2([row("ar_prior", fid={"value": 30, "low": 29, "high": 32})])
    found = texts(table)
    assert found["GLIDE (paper)"][:3] == ["–", "12.24", "12.89"] and found["AttnGAN (paper)"][0] == "35.49"
    assert found["AR prior"] == ["–", "30.00", "–", "1.50"]
    assert "30,000 captions" in table.notes[0] and "n = 512 against 1024" in table.notes[1]


def test_table_3(tmp_path: Path):
    stage = tmp_path / "decoder"
    (stage / "export").mkdir(parents=True)
    network = {"unet": {"channels": 32, "channel_multipliers": [1, 2], "depth": 1, "attention_resolutions": [4]},
               "text_width": 64, "text_depth": 2}  # fmt: skip
    model = {
        "network": {"init_args": network},
        "objective": {"num_steps": 1000, "schedule": "cosine"},
        "sampler": {"name": "ddim", "steps": 16},
        "optimizer": {"init_args": {"lr": 0.002, "betas": [0.9, 0.99]}},
        "training": {"ema_decay": 0.995},
    }
    config = {"model": {"init_args": model}, "data": {"init_args": {"batch_size": 32}}, "trainer": {"max_steps": 48}}
    (stage / "config.yaml").write_text(yaml.safe_dump(config))
    save_file({"a": np.zeros((100, 50)), "b": np.zeros(5000)}, stage / "export" / "model.safetensors")
    table = table_3(tmp_path)
    assert table.columns == ["", "AR prior", "diffusion prior", "decoder", "upsampler"]
    found = {r[0].text: r[3] for r in table.rows}
    assert found["channels"] == Cell("32", "(512)") and found["channel multipliers"] == Cell("1,2", "(1,2,3,4)")
    assert found["parameters"] == Cell("0.01M", "(3.5B)") and found["Adam beta2"] == Cell("0.99", "(0.999)")
    assert found["text width / depth"] == Cell("64 / 2", "(2048 / 24)") and found["iterations"].text == "48"
    assert {r[0].text: r[1] for r in table.rows}["iterations"] == Cell("–", "(1M)")  # not trained in this run
    (stage / "config.yaml").write_text("[]")
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
    assert r"a|b & 1.5 [1, 2] \\" in text and r"c & -- \\" in text and r"\begin{tabular}{lr}" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2 and "n = 3" in text


def test_csv():
    found = list(csv.reader(io.StringIO(TABLE.csv())))
    assert found == [["name", "x ↓", "x ↓ interval"], ["a|b", "1.5", "[1, 2]"], ["c", "–", ""]]
