"""Nothing outside of a folder is read through what lies in it, and nothing in it is waited for without end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.trials.fuzz import watched
from datamodules.faults import FaultPolicy
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.module import SplitConfig
from eval.errors import InputError as EvalInputError
from eval.figures.folder import RECORD, FigureRecord, write_figure
from eval.pages.manipulations import write_manipulations_page
from eval.reference import ReferenceStatistics
from eval.samples.folder import MANIFEST, SampleFolder, write_samples
from experiments.cli import main
from modules.errors import InputError
from modules.images.tensors import load_image
from modules.untrusted.reading import read_bytes

SECRET = "unclip-canary of a person"


@pytest.fixture
def secret(tmp_path):
    """A PNG beside everything else that nothing may read."""
    path = tmp_path / "unclip-canary.png"
    Image.new("RGB", (8, 8), "red").save(path)
    path.write_bytes(path.read_bytes() + SECRET.encode())
    return path


def figure(run):
    return write_figure(
        run / "manipulations" / "x", FigureRecord("t", how={"command": "c"}), {"a.png": Image.new("RGB", (4, 4))}
    )


@pytest.mark.parametrize(
    "name",
    ["../../../unclip-canary.png", "ABSOLUTE", "link.png", "..", "", "a\0b", 3, ["a.png"], "sub/a.png", "x" * 5000],
)
def test_a_figure_shows_only_its_own_pictures(tmp_path, secret, name):
    folder = figure(tmp_path / "run")
    (folder / "link.png").symlink_to(secret)
    content = json.loads((folder / RECORD).read_text())
    content["pictures"] = [str(secret) if name == "ABSOLUTE" else name]
    (folder / RECORD).write_text(json.dumps(content))
    with watched(tmp_path / "run"), pytest.raises(EvalInputError):
        write_manipulations_page(tmp_path / "run")
    assert not (tmp_path / "run" / "manipulations.html").exists()


def test_a_figures_picture_is_a_png(tmp_path):
    folder = figure(tmp_path / "run")
    (folder / "a.png").write_text(SECRET)
    with pytest.raises(EvalInputError, match="is no PNG"):
        write_manipulations_page(tmp_path / "run")
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    with pytest.raises(EvalInputError, match="is not there"):
        write_manipulations_page(tmp_path / "run")


def samples(folder):
    records = [{"caption": "a", "caption_index": k, "sample_index": 0, "condition": "real"} for k in range(2)]
    return write_samples(folder, iter([Image.new("RGB", (8, 8))] * 2), records)


def edited(folder, **changes):
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    lines[0].update(changes)
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_sample_is_no_link_out_of_the_folder(tmp_path, secret):
    samples(tmp_path / "s")
    edited(tmp_path / "s", sha256=None)
    (tmp_path / "s" / "00000.png").unlink()
    (tmp_path / "s" / "00000.png").symlink_to(secret)
    with watched(tmp_path / "s"), pytest.raises(EvalInputError, match="leads out of the folder"):
        SampleFolder.open(tmp_path / "s")


@pytest.mark.parametrize(
    "line",
    [
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"caption_index": ' + "9" * 5000 + "}",
        '{"caption_index": NaN}',
        '{"file": "a.png", "caption": "a", "caption_index": 1' + "0" * 30 + ', "sample_index": 0, "condition": "real"}',
        '{"file": "a.png", "caption": "a", "caption_index": -1, "sample_index": 0, "condition": "real"}',
        '{"file": "a\\u0000.png", "caption": "a", "caption_index": 1, "sample_index": 0, "condition": "real"}',
        '{"caption": "' + "x" * 2**21 + '"}',
        '{"caption": "\\ud800"}',
    ],
    ids=["deep", "digits", "NaN", "10^30", "negative", "NUL", "2 MB", "surrogate"],
)
def test_a_manifests_line_is_refused_by_its_number(tmp_path, line):
    samples(tmp_path / "s")
    with (tmp_path / "s" / MANIFEST).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(EvalInputError, match=r"manifest\.jsonl:3"):
        SampleFolder.open(tmp_path / "s")


def test_values_that_would_fail_after_the_work_are_refused_first(tmp_path):
    samples(tmp_path / "s")
    edited(tmp_path / "s", guidance={"decoder": float("nan")})
    with pytest.raises(EvalInputError, match="NaN is no number"):
        SampleFolder.open(tmp_path / "s")
    thing = {"colour": "red", "shape": "circle", "size": "small", "where": None}
    mentioned = {"objects": [thing] * 12, "background": None, "relation": None, "count": None}
    edited(tmp_path / "s", guidance=None, mentioned=mentioned)
    with pytest.raises(EvalInputError, match="12 objects, more than"):  # 12! orders would be tried.
        SampleFolder.open(tmp_path / "s")


def pictures(folder, count=6):
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"a picture {k}\n")
    return folder


def read_all(folder, **options):
    splits = SplitConfig(val_share=0.0, test_share=0.0)
    data = ImageFolderDataModule(
        str(folder), image_size=8, splits=splits, faults=FaultPolicy(max_skipped=100, **options)
    )
    dataset = data.dataset("train")
    batch, faults = dataset.load(range(len(dataset)))
    found = {fault.kind for fault in (*data.log("train").found.values(), *faults)}
    return data.captions("train"), batch, found


@pytest.mark.parametrize("name", ["0.png", "0.txt"])
@pytest.mark.parametrize("kind", ["fifo", "zero", "null", "loop", "out", "socket"])
def test_what_is_no_file_is_a_counted_fault(tmp_path, secret, monkeypatch, name, kind):
    folder = pictures(tmp_path / "d")
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        monkeypatch.chdir(folder)  # The name of a socket is short.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    else:
        path.symlink_to({"zero": "/dev/zero", "null": "/dev/null", "loop": path, "out": secret}[kind])
    with watched(folder):
        captions, batch, found = read_all(folder)
    assert len(captions) == 5 and len(batch.images) == 5
    expected = {"fifo": "no regular file", "socket": "no regular file", "loop": "points nowhere"}
    assert any(expected.get(kind, "leads out of the folder") in fault for fault in found)


def test_links_are_followed_where_the_user_says_so(tmp_path):
    folder, elsewhere = pictures(tmp_path / "d"), pictures(tmp_path / "own", 8)
    for name in ("7.png", "7.txt"):
        (folder / name).symlink_to(elsewhere / name)
    (folder / "within.png").symlink_to(folder / "0.png")
    (folder / "within.txt").write_text("a link within")
    assert len(read_all(folder)[0]) == 7
    assert len(read_all(folder, follow_links=True)[0]) == 8


def test_a_persons_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero")):
        with pytest.raises(InputError, match="name a file"):
            load_image(path)
        with pytest.raises(InputError, match="name a file"):
            read_bytes(path, 10)


def test_an_export_copies_no_file_from_outside(sent, secret, capsys):
    export = sent / "decoder" / "export"
    (sent / "decoder" / "config.yaml").write_text("model: {}\n")
    (export / "more.txt").symlink_to(secret)
    with watched(sent.parent / "here"):
        assert main(["export", str(sent), "--out", "out"]) == 2
    assert "leads out of the export" in capsys.readouterr().err and not Path("out").exists()


def test_environment_variables_reach_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("A_SECRET", "hunter2")
    pictures(tmp_path / "d")
    (tmp_path / "d.yaml").write_text(
        "data:\n  class_path: datamodules.image_folder.ImageFolderDataModule\n  init_args:\n"
        f"    train: {tmp_path / 'd'}\n    image_size: 8\n    captions: {{columns: {{}}}}\n"
        "    cache_dir: ${oc.env:A_SECRET}\n"
    )
    assert main(["data", "check", str(tmp_path / "d.yaml"), "--out", str(tmp_path / "page.html")]) == 0
    capsys.readouterr()
    page = (tmp_path / "page.html").read_text()
    assert "hunter2" not in page and "A_SECRET" in page


def test_statistics_do_not_unpack_without_bound(tmp_path):
    import zipfile

    import numpy as np

    path = tmp_path / "r.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("n", "mean", "scatter", "protocol"):
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(b"\0" * 1000)
    with pytest.raises(EvalInputError, match="cannot read"):
        ReferenceStatistics.load(path)
    np.savez(path, n=5, mean=np.full(2, np.nan), scatter=np.eye(2), protocol=np.array("{}"))
    with pytest.raises(EvalInputError, match="not finite"):
        ReferenceStatistics.load(path)
    np.savez(path, n=5, mean=np.array([{}], dtype=object), scatter=np.eye(2), protocol=np.array("{}"))
    with pytest.raises(EvalInputError, match="cannot read"):
        ReferenceStatistics.load(path)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("name", ["0.png", "0.txt", "captions.csv", "00000/metadata.jsonl", "00000/samples"])
def test_a_strangers_folder_of_pictures_is_read_within(tmp_path, secret, name):
    from eval.samples.plain import open_folder

    folder, own = tmp_path / "pictures", tmp_path / "own"
    (own / "samples").mkdir(parents=True)
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    (own / "0.txt").write_text(SECRET)
    (own / "captions.csv").write_text(f"file,caption\n0.png,{SECRET}\n")
    (own / "metadata.jsonl").write_text(
        json.dumps({"prompt": SECRET, "tag": "counting", "include": [{"class": "a", "count": 1}]})
    )
    Image.new("RGB", (8, 8)).save(own / "samples" / "0000.png")
    Image.new("RGB", (8, 8)).save(own / "0.png")
    assert len(open_folder(folder)) == 1
    if "/" in name:
        (folder / "00000").mkdir()
        if name.endswith("samples"):
            shutil.copy(own / "metadata.jsonl", folder / "00000")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(own / name.rpartition("/")[2])
    with pytest.raises(EvalInputError, match="leads out of the folder"):
        open_folder(folder)


def test_links_within_a_folder_of_pictures_are_followed(tmp_path):
    from eval.samples.plain import open_folder

    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to("0.png")
    assert len(open_folder(tmp_path)) == 2


@pytest.mark.parametrize("place", ["train/img_emb/img_emb_0.npy", "train"])
def test_embeddings_that_are_links_out_of_their_folder_are_not_read(embeddings, tmp_path, place):
    from datamodules.embeddings.folder import open_embeddings

    folder, elsewhere = tmp_path / "sent", tmp_path / "elsewhere"
    shutil.copytree(embeddings, folder)
    shutil.move(folder / place, elsewhere)
    (folder / place).symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"img_emb_0\.npy is a link that leads out of the folder"):
        open_embeddings(folder).rows("train")


def test_captions_of_clip_retrieval_that_are_links_out_are_not_read(tmp_path):
    from datamodules.embeddings.shards import METADATA, numbered

    (tmp_path / "data" / METADATA).mkdir(parents=True)
    (tmp_path / "other.parquet").write_bytes(b"secret")
    (tmp_path / "data" / METADATA / "metadata_0.parquet").symlink_to(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="leads out of the folder"):
        numbered(tmp_path / "data", METADATA, ".parquet")
