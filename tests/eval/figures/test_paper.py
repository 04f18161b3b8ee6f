"""Figures show the numbers that they are of; what cannot be made is named with the way to make it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.errors import InputError
from eval.figures import plots
from eval.figures.folder import FigureRecord, write_figure
from eval.figures.paper import paper_figures
from eval.pages.collected import paper_tables
from eval.tables.sweeps import Sweep


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


def test_best_of_n_has_its_metrics_over_the_number_of_candidates(guidance):
    """DALL-E 1's figure 9c: the paper's distance, CLIP score and accuracy, over powers of two."""
    points = [p for p in guidance["points"] if p["condition"] == "glide"]
    for p, count in zip(points, (16, 1, 4), strict=True):
        p["settings"] = {"ranking.best_of": count}
    figure = plots.candidates(Sweep(**{**guidance, "axis": "ranking.best_of", "points": points}))
    assert figure is not None
    assert [a.get_ylabel() for a in figure.axes] == ["Frechet distance", "CLIP score", "all right"]
    assert lines(figure.axes[0]) == {"GLIDE": ([1, 4, 16], [5.0, 6.5, 5.5])}
    assert {a.get_xscale() for a in figure.axes} == {"log"}
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()] == ["1", "4", "16"]
    assert plots.candidates(Sweep(**{**guidance, "points": []})) is None


def test_the_blur_has_a_line_for_each_row():
    def cell(value: float) -> dict:
        return {"value": value, "low": value - 1, "high": value + 1}

    rows = [{"condition": name, "frechet": [cell(a), cell(b)]} for name, a, b in (("dalle", 6, 3), ("glide", 5, 4))]
    figure = plots.blur({"radii": [0, 8], "rows": rows, "note": "n = 4"})
    assert figure is not None
    assert lines(figure.axes[0]) == {"DALL-E": ([0, 8], [6, 3]), "GLIDE": ([0, 8], [5, 4])}


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


def test_lines_and_bars_name_the_sampler_as_trained(guidance):
    own = {"sampler": "dpm_solver_pp", "steps": 4, "guidance": 1.5}
    for k, p in enumerate(guidance["points"]):
        p["settings"] = {} if k % 2 else {"decoder.name": "ddpm"}
        p["drawn"] = {"decoder": own}
    assert set(lines(plots.samplers(Sweep(**guidance)).axes[0])) == {"ddpm", "as trained (dpm_solver_pp)"}
    names = [t.get_text() for t in plots.priors(Sweep(**guidance)).axes[0].get_yticklabels()]
    assert names[1] == "GLIDE: as trained (dpm_solver_pp, 4 steps, guidance 1.5)"
    for p in guidance["points"]:
        del p["drawn"]
    assert set(lines(plots.samplers(Sweep(**guidance)).axes[0])) == {"ddpm", "as trained"}  # of an older release


def test_error_bars_reach_from_low_to_high(guidance):
    figure = plots.guidance(Sweep(**guidance))
    glide = figure.axes[0].containers[0]
    lows_and_highs = [[y for _, y in segment] for segment in glide.lines[2][0].get_segments()]
    expected = [[d - 0.01, d + 0.02] for d in (5.5, 5.0, 6.5)]  # as conftest's intervals, which are not symmetric
    assert np.allclose(lows_and_highs, expected)
    across = plots.trade_off(Sweep(**guidance)).axes[1].containers[0]
    xs = [[x for x, _ in segment] for segment in across.lines[2][0].get_segments()]
    assert np.allclose(xs, [[r - 0.01, r + 0.02] for r in (0.5, 0.4, 0.25)])


def test_binding(row):
    shares = {
        kind: {"value": v, "low": v - 0.1, "high": v + 0.15}
        for kind, v in (("bound", 0.5), ("swapped", 0.2), ("missing", 0.3))
    }
    figure = plots.binding([row("glide", binding={"any": {"n": 104, **shares}}), row("real")])
    assert figure is not None and plots.binding([row("real")]) is None
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.5, 0.2, 0.3]
    assert len({bar.get_y() for bar in axis.patches}) == 3
    bars = [c.errorbar.lines[2][0].get_segments()[0][:, 0] for c in axis.containers if hasattr(c, "patches")]
    assert np.allclose(bars, [[v - 0.1, v + 0.15] for v in (0.5, 0.2, 0.3)])
    assert axis.get_xlabel() == "share of samples for captions\nthat tell two objects apart (n = 104)"
    figure.draw_without_rendering()
    for text in (axis.xaxis.label, figure._supxlabel, *axis.get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0, f"{text} is cut off"


def feet(figure) -> str:
    """What stands below a figure."""
    below = [figure._supxlabel.get_text()] if figure._supxlabel else [text.get_text() for text in figure.texts]
    return " ".join(" ".join(below).split())


def test_the_protocol_stands_below(guidance, row):
    said = feet(plots.guidance(Sweep(**guidance)))
    assert said == (
        "n = 512 a point (256 captions); attribute classifier 12ab against 1024 real images (reference, 56ef) of 32 px;"
        " CLIP score by eval_clip 34cd; bars: 95% bootstrap intervals over captions, 1000 draws."
    )
    said = feet(plots.trade_off(Sweep(**guidance)))
    assert said.endswith("; of recall: over real images (binomial), for these samples; too narrow, measure again.")
    assert "CLIP score" not in said
    said = feet(plots.priors(Sweep(**{**guidance, "space": "embeddings"})))
    assert "embeddings, without a decoder, against 1024 true ones; bars: 95%" in said
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    given = row("glide", binding={"any": {"n": 3, "bound": share, "swapped": share, "missing": share}})
    assert feet(plots.binding([given])).startswith("Judged by attribute classifier 12ab. Bars: 95% bootstrap")


def test_each_scale_has_its_marker(guidance):
    figure = plots.trade_off(Sweep(**guidance))
    shown = [text.get_text() for text in figure.legends[1].get_texts()]
    assert shown == ["1", "1.5", "3"] and not figure.axes[1].texts
    points = [drawn for drawn in figure.axes[1].lines if drawn.get_marker() not in ("", "None", "|", "_")]
    assert [drawn.get_marker() for drawn in points] == ["o", "s", "D"] * 2
    assert [float(drawn.get_xdata()[0]) for drawn in points[:3]] == [0.5, 0.4, 0.25]


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
    lacking = {"dalle1_figure_09ab_blur", "dalle1_figure_09c_best_of"}
    lacking |= {"figure_06_typographic", "figure_07_pca", "figure_12_models", "figure_14_binding", "sampler", "prior"}
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
    assert feet(figures["figure_08_conditioning"]) == "The first sample of each caption."
    said = feet(figures["figure_09a_guidance_glide"])
    assert said == "The first sample of each caption. Drawn with steps 8."


def test_pages_of_pictures_say_how_they_were_drawn(run: Path):
    for name in ("text_embedding", "diffusion_prior"):
        file = run / "samples" / name / "manifest.jsonl"
        records = [json.loads(text) for text in file.read_text().splitlines()]
        told = [json.dumps({**record, "sampler": {"decoder": "ddim"}}) for record in records]
        file.write_text("\n".join(told) + "\n")
    figures, _ = paper_figures(run, [])
    assert feet(figures["figure_08_conditioning"]).endswith("Drawn with decoder: ddim.")


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
