"""Figures show the numbers that they are of; what cannot be made is named with the way to make it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from eval import plots
from eval.errors import InputError
from eval.figure_folder import FigureRecord, write_figure
from eval.paper_figures import paper_figures, paper_tables
from eval.sweeps import Sweep


def lines(axis) -> dict[str, tuple[list, list]]:
    """Label -> (x, y) of the lines that are drawn."""
    return {c.get_label(): (list(c[0].get_xdata()), list(c[0].get_ydata())) for c in axis.containers}


def test_guidance(guidance):
    figure = plots.guidance(Sweep(**guidance))
    assert figure is not None and [a.get_ylabel() for a in figure.axes] == [
        "Frechet distance",
        "CLIP score",
        "all right",
    ]
    found = lines(figure.axes[0])
    assert found == {"GLIDE": ([1.0, 1.5, 3.0], [5.5, 5.0, 6.5]), "diffusion prior": ([1.0, 1.5, 3.0], [3.5, 3.0, 4.5])}
    assert plots.guidance(Sweep(**{**guidance, "points": []})) is None


def test_trade_off_prefers_aesthetics_then_accuracy(guidance):
    figure = plots.trade_off(Sweep(**guidance))
    assert figure is not None and figure.axes[1].get_xlabel() == "recall"
    assert lines(figure.axes[1])["GLIDE"] == ([0.5, 0.4, 0.25], [0.25, 0.25, 0.25])
    guidance["points"][0]["aesthetic"] = {"value": 6.0, "low": 5.0, "high": 7.0}
    assert plots.quality(Sweep(**guidance))[0] == "mean predicted aesthetic"
    for p in guidance["points"]:
        p["aesthetic"] = p["accuracy"] = None
    assert plots.quality(Sweep(**guidance))[0] == "CLIP score"


def test_samplers_by_evaluations(guidance):
    for k, p in enumerate(guidance["points"]):
        p["settings"] = {"decoder.name": "ddim" if k % 2 else "ddpm"}
        p["evaluations"] = 32 - k
    figure = plots.samplers(Sweep(**guidance))
    assert figure is not None
    found = lines(figure.axes[0])
    assert found["ddpm"][0] == pytest.approx([28, 30, 32], rel=0.02) and found["ddpm"][1] == [3.0, 6.5, 5.5]
    assert found["ddim"][0] == pytest.approx([27, 29, 31], rel=0.02)
    assert found["ddpm"][0][0] < 28 and found["ddim"][0][0] > 27  # beside each other
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["27", "28", "29", "30", "31", "32"]


def test_binding_bars_add_up(row):
    shares = {
        kind: {"value": v, "low": 0, "high": 1} for kind, v in (("bound", 0.5), ("swapped", 0.2), ("missing", 0.3))
    }
    figure = plots.binding([row("glide", binding={"any": shares}), row("real")])
    assert figure is not None
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert ends == pytest.approx([0.5, 0.7, 1.0]) and plots.binding([row("real")]) is None


def test_saved_twice_the_same(guidance):
    first, second = (plots.save(plots.guidance(Sweep(**guidance))) for _ in range(2))
    assert first == second and first["svg"].lstrip().startswith(b"<?xml")
    assert Image.open(io.BytesIO(first["png"])).width > 1000


@pytest.fixture
def run(guidance, make_folder, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    for condition in ("text_embedding", "diffusion_prior"):
        make_folder(f"run/samples/{condition}", condition=condition)
    for k, point in enumerate(guidance["points"]):
        make_folder(f"run/sweeps/guidance/{k}", condition=point["condition"], captions=3, per_caption=1)
        point["folder"] = f"sweeps/guidance/{k}"
    (run / "sweeps" / "guidance.json").write_text(json.dumps(guidance))
    return run


def test_of_a_run(run: Path, row):
    figures, absent = paper_figures(run, [row("diffusion_prior")])
    assert set(figures) == {
        "figure_08_conditioning", "figure_09a_guidance_glide", "figure_09b_guidance_diffusion_prior",
        "figure_10_13_trade_off", "figure_11_guidance",
    }  # fmt: skip
    lacking = {"figure_06_typographic", "figure_07_pca", "figure_12_models", "figure_14_binding", "sampler", "prior"}
    assert set(absent) == lacking and "unclip gallery" in absent["figure_07_pca"]
    assert "unclip sweep experiments/protocols/sampler.yaml" in absent["sampler"]
    tables = paper_tables(run, [row("diffusion_prior")])
    names = ["table_1_humans", "table_2_fid", "table_3_hyperparameters", "ablation", "sweep_guidance"]
    assert list(tables) == names


def test_rows_of_different_protocols_are_not_drawn(run: Path, row):
    other = row("diffusion_prior")
    other["protocol"] |= {"extractor": "another"}
    with pytest.raises(InputError, match=r"glide was measured with extractor = .* and diffusion_prior with 'another'"):
        paper_figures(run, [row("glide"), other])


def test_pictures_are_shown_pixel_for_pixel(run: Path, row):
    figures, _ = paper_figures(run, [])
    shown = Image.open(io.BytesIO(plots.save(figures["figure_08_conditioning"])["png"]))
    assert shown.width == pytest.approx(1.5 * (2 * 116 + 4), abs=2)


def test_figures_of_manipulations_are_shown(run: Path):
    picture = Image.new("RGB", (30, 20), "red")
    picture.putpixel((3, 4), (0, 0, 255))
    write_figure(run / "manipulations" / "pca", FigureRecord("PCA"), {"grid.png": picture})
    figures, absent = paper_figures(run, [])
    assert "figure_06_typographic" in absent
    shown = Image.open(io.BytesIO(plots.save(figures["figure_07_pca"])["png"])).convert("RGB")
    assert shown.width / shown.height == pytest.approx(1.5, rel=0.05)
    x, y = (int((k + 0.5) / side * size) for k, side, size in ((3, 30, shown.width), (4, 20, shown.height)))
    assert shown.getpixel((x, y)) == (0, 0, 255) and shown.getpixel((0, 0)) == (255, 0, 0)
