"""Links that a stranger has put where this project writes: nothing is written where they lead."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file

from datamodules.faults import Fault, FaultLog, FaultPolicy
from eval.samples.shards import KEPT, LOCK, REQUEST, Shards
from experiments.storage.folders import write_text
from experiments.storage.holding import holding
from experiments.suites.processes import StageProcess, take_lock
from experiments.training.stage_folder import RunFolder
from modules.clip.saved import save_clip
from modules.errors import InputError
from modules.models.exports import write_weights
from modules.untrusted.writing import open_to_append

SECRET = "a person's own file\n"


@pytest.fixture
def own(tmp_path):
    """A file outside of the stranger's folder."""
    path = tmp_path / "own.txt"
    path.write_text(SECRET)
    yield path
    assert path.read_text() == SECRET


@pytest.fixture
def sent_folder(tmp_path):
    (tmp_path / "sent").mkdir()
    return tmp_path / "sent"


LOCKS = {
    "a run": lambda place: RunFolder(place.parent.parent / "clip").hold().__enter__(),
    "any folder": lambda place: holding(place, "run x", "wait").__enter__(),
    "a stage": lambda place: take_lock(place, ["unclip", "fit"]),
    "a log": open_to_append,
    "a stage's log": lambda place: StageProcess(["true"], dict(os.environ), place, place.parent / "lock"),
}


@pytest.mark.parametrize("what", LOCKS)
@pytest.mark.parametrize("there", [True, False])
def test_locks_and_logs_are_no_links(sent_folder, own, what, there):
    place = sent_folder / ".locks" / "clip.fit"
    place.parent.mkdir()
    target = own if there else own.with_name("new.txt")
    place.symlink_to(target)
    with pytest.raises(InputError, match=r"clip\.fit is a link, a FIFO or a device"):
        LOCKS[what](place)
    assert target.exists() == there


def test_a_log_is_no_fifo(sent_folder):
    os.mkfifo(sent_folder / "log.txt")
    with pytest.raises(InputError, match="is a link, a FIFO or a device"):
        open_to_append(sent_folder / "log.txt")


def test_an_ordinary_log_is_gone_on_with(sent_folder):
    for line in (b"one\n", b"two\n"):
        with open_to_append(sent_folder / "log.txt") as file:
            file.write(line)
    assert (sent_folder / "log.txt").read_bytes() == b"one\ntwo\n"


def test_the_list_of_faults_is_no_link(sent_folder, own, caplog):
    log = FaultLog(FaultPolicy(max_skipped=9), "train", quiet=True)
    (sent_folder / "skipped.jsonl").symlink_to(own)
    log.write_into(sent_folder, 0)
    log.add(Fault("a", "no caption"))
    assert "can't be written" in caplog.text and "link" in caplog.text


def test_temporary_files_replace_links(sent_folder, own):
    temporary = {
        ".model.safetensors.tmp": lambda: write_weights({"a": torch.ones(2)}, sent_folder / "model.safetensors"),
        f".x.json.{os.getpid()}.part": lambda: write_text(sent_folder / "x.json", "{}"),
    }
    for name, write in temporary.items():
        (sent_folder / name).symlink_to(own)
        write()
    assert load_file(sent_folder / "model.safetensors")["a"].tolist() == [1, 1]
    assert (sent_folder / "x.json").read_text() == "{}"


def test_an_unfinished_sample_folder_writes_into_itself(sent_folder, own):
    writer = Shards(sent_folder / "out")
    writer.path.mkdir()
    (writer.path / REQUEST).write_text("{}")
    for name in (LOCK, f".{KEPT}", "00000.png", "manifest.jsonl"):
        (writer.path / name).symlink_to(own)
    with writer.started({}) as done:
        assert done == 0
        line = {"caption": "a", "caption_index": 0, "sample_index": 0, "condition": "real"}
        writer.write(0, [0], torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [line])
        assert len(writer.finish(1)) == 1


def test_a_clips_files_are_its_own(sent, own, tmp_path):
    from modules.clip.frozen import FrozenCLIP

    folder = sent / "clip" / "export"
    (folder / "more.json").symlink_to(own)
    with pytest.raises(InputError, match="is a link that leads out of the CLIP's folder"):
        save_clip(FrozenCLIP(str(folder)), str(folder), tmp_path / "mine" / "clip")
    assert not (tmp_path / "mine" / "clip" / "export" / "more.json").exists()


def test_the_card_of_an_imported_run_is_no_link(sent_folder, own):
    from types import SimpleNamespace

    from experiments.importing.cards import release_of
    from experiments.importing.import_weights import write_run

    release = release_of("glide", "x", sent_folder)
    options = SimpleNamespace(out=sent_folder, kind="glide")
    write_run({}, sent_folder, release, options)
    assert (sent_folder / "README.md").read_text().startswith("# GLIDE")
    (sent_folder / "README.md").unlink()
    (sent_folder / "README.md").symlink_to(own)
    with pytest.raises(InputError, match=r"README\.md is a link, a FIFO or a device"):
        write_run({}, sent_folder, release, options)


def test_a_clip_is_not_copied_through_links(stored_run, sent_folder, own):
    from modules.clip.frozen import FrozenCLIP

    given = str(stored_run / "clip" / "export")
    place = sent_folder / "clip" / "export"
    place.mkdir(parents=True)
    for name in ("open_clip_model.safetensors", "vocabulary.json"):
        (place / name).symlink_to(own)
    assert save_clip(FrozenCLIP(given), given, sent_folder / "clip") == place
    assert not any(path.is_symlink() for path in place.iterdir())
