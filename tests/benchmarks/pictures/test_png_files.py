"""The benchmark of PNG files: what it prints is what the settings give."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pictures import png_files


def test_each_setting_has_the_size_of_its_files(tmp_path: Path, monkeypatch, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "00000.png")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "00001.png")
    Image.new("RGB", (640, 640)).save(tmp_path / "grid.png")  # a page of the folder, not one of its pictures
    monkeypatch.setattr(sys, "argv", ["png_files", str(tmp_path), "--repeats", "1"])
    assert png_files.main() == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["Pillow's own", "the suite's", "optimize"]
    own = sum((tmp_path / f"0000{k}.png").stat().st_size for k in range(2)) / 2
    assert rows[0][2] == f"{own:,.0f}"
    assert all(float(row[1]) > 0 for row in rows)


def test_a_folder_without_pictures_is_named(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["png_files", str(tmp_path)])
    assert png_files.main() == 1
    assert capsys.readouterr().err == f"{tmp_path} has no pictures\n"
