"""The render cache: right, whole or absent, and made once."""

import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest

from datamodules.limits import crowd_scenes, sign_scenes
from datamodules.rendered import cache, channels, scenes
from datamodules.rendered.cache import MappedArray, RenderedOnDemand, cached_images, cached_json, digest, source_hash
from modules.errors import InputError


def picture(index):
    return np.full((8, 8, 3), index, np.uint8)


def test_images_are_those_rendered_and_rendered_once(tmp_path):
    calls = []

    def render(index):
        calls.append(index)
        return picture(index)

    first = cached_images(tmp_path, "toy", ["key"], 5, 8, render)
    again = cached_images(tmp_path, "toy", ["key"], 5, 8, render)
    assert calls == [0, 1, 2, 3, 4]
    assert len(again) == 5
    np.testing.assert_array_equal(first[[4, 1, 1]], np.stack([picture(i) for i in (4, 1, 1)]))
    np.testing.assert_array_equal(RenderedOnDemand(5, picture)[[3, 0]], first[[3, 0]])
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ".npy"]


def test_whatever_makes_the_images_makes_the_file_name(tmp_path):
    for key, count, size in (("a", 2, 8), ("b", 2, 8), ("a", 3, 8)):
        cached_images(tmp_path, "toy", key, count, size, picture)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_mapped_array_travels_as_its_path(tmp_path):
    array = cached_images(tmp_path, "toy", 0, 200, 8, picture)
    assert len(array) == 200  # Opens it.
    sent = pickle.dumps(array)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[[7]], array[[7]])


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY garbage", None])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    path = cached_images(tmp_path, "toy", 0, 4, 8, picture).path
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    np.testing.assert_array_equal(cached_images(tmp_path, "toy", 0, 4, 8, picture)[[3]], picture(3)[None])


@pytest.mark.parametrize("other", [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3), np.float32)])
def test_a_file_of_another_kind_is_made_again(tmp_path, other):
    np.save(cached_images(tmp_path, "toy", 0, 4, 8, picture).path, other)
    np.testing.assert_array_equal(cached_images(tmp_path, "toy", 0, 4, 8, picture)[[3]], picture(3)[None])


def test_a_failure_while_rendering_leaves_no_file(tmp_path):
    def fails(index):
        if index == 2:
            raise RuntimeError("renderer")
        return picture(index)

    with pytest.raises(RuntimeError, match="renderer"):
        cached_images(tmp_path, "toy", 0, 4, 8, fails)
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob("*.tmp"))


def _slowly(folder, log):
    def render(index):
        with open(log, "a") as file:  # noqa: PTH123
            file.write(f"{index}\n")
        time.sleep(0.02)
        return picture(index)

    cached_images(folder, "toy", 0, 10, 8, render)


def _killed(folder):
    def render(index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return picture(index)

    cached_images(folder, "toy", 0, 10, 8, render)


def test_two_processes_at_once_render_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_slowly, args=(tmp_path / "c", tmp_path / "log")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "log").read_text().split() == [str(i) for i in range(10)]


def test_a_killed_writer_blocks_nobody_and_leaves_nothing_wrong(tmp_path):
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_killed, args=(tmp_path / "c",))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert list((tmp_path / "c").glob("*.tmp"))
    assert not list((tmp_path / "c").glob("*.npy"))
    np.testing.assert_array_equal(cached_images(tmp_path / "c", "toy", 0, 10, 8, picture)[[9]], picture(9)[None])
    assert not list((tmp_path / "c").glob("*.tmp"))


def test_json_is_made_once_and_repaired(tmp_path):
    assert cached_json(tmp_path, "records", 1, lambda: {"a": [1, "é"]}) == {"a": [1, "é"]}
    assert cached_json(tmp_path, "records", 1, lambda: {"a": "other"}) == {"a": [1, "é"]}
    next(tmp_path.glob("*.json")).write_text("{")
    assert cached_json(tmp_path, "records", 1, lambda: {"a": "other"}) == {"a": "other"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*set cache_dir"):
        cached_images(tmp_path / "file" / "cache", "toy", 0, 1, 8, picture)


def test_no_room_is_said_before_rendering(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: cache.shutil._ntuple_diskusage(10, 9, 1_000))
    with pytest.raises(InputError, match=r"needs 2 MB .* and has 0 MB free"):
        cached_images(tmp_path, "toy", 0, 10_000, 8, lambda index: pytest.fail("rendered"))


def test_a_full_disk_while_writing_is_an_input_error(tmp_path):
    def render(index):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        cached_images(tmp_path, "toy", 0, 1, 8, render)


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1, "b": 2}) != digest({"a": 2, "b": 1})
    assert len(source_hash(scenes)) == 16
    assert source_hash(scenes) != source_hash(cache)


def test_mapped_arrays_refuse_pickles(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        len(MappedArray(tmp_path / "evil.npy"))


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (scenes, "7fe337254bb98e23"),
        (channels, "3bfcfd50d2089678"),
        (sign_scenes, "30485af30f662b4f"),
        (crowd_scenes, "4032b49ad771c82d"),
    ],
)
def test_the_code_of_scenes_is_that_by_which_runs_know_their_pictures(module, known):
    """A change of these files, of a comment too, makes the embeddings of every run those of other pictures."""
    assert source_hash(module) == known
