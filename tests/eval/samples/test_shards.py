"""A sample folder in the making: what several writers leave, at any moment, becomes what one would have written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from eval.errors import InputError
from eval.samples.folder import SampleFolder, write_samples
from eval.samples.shards import Shards

COUNT = 6
REQUEST = {"condition": "real", "seed": 0}


def images() -> torch.Tensor:
    return torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def records() -> list[dict]:
    return [
        {"caption": f"caption {k // 2} é", "caption_index": k // 2, "sample_index": k % 2, "condition": "real"}
        for k in range(COUNT)
    ]


def write(shards: Shards, numbers: list[int], writer: int = 0) -> None:
    shards.write(writer, numbers, images()[numbers], [records()[k] for k in numbers])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "samples"


def test_several_writers_make_what_one_makes(target: Path, tmp_path: Path):
    write_samples(tmp_path / "one", images(), records())
    with Shards(target).started(REQUEST) as finished:
        assert finished == 0
        first, second = Shards(target), Shards(target)  # in processes of their own
        write(second, [4, 5], writer=1)
        write(first, [0, 1])
        write(first, [3, 2])
        folder = Shards(target).finish(COUNT)
    assert contents(target) == contents(tmp_path / "one")
    assert folder.captions == [record["caption"] for record in records()]
    assert [path.name for path in target.parent.iterdir()] == ["samples"]


def stop_after(target: Path, numbers: list[int]) -> Path:
    """What a run that was killed leaves."""
    with pytest.raises(RuntimeError), Shards(target).started(REQUEST):
        write(Shards(target), numbers)
        raise RuntimeError("killed")
    return target.with_name(".samples.sampling")


def test_what_is_whole_is_kept_and_what_is_not_is_not(target: Path):
    folder = stop_after(target, [0, 1, 2, 3])
    assert not target.exists()
    content = (folder / "00001.png").read_bytes()
    (folder / "00001.png").write_bytes(content[:-20])
    (folder / "00003.png").unlink()
    (shard,) = folder.glob("shard-*.jsonl")
    with shard.open("a", encoding="utf-8") as file:
        file.write('{"file": "00004.png", "capt')  # a line that was being written
    before = (folder / "00002.png").stat()
    shards = Shards(target)
    with shards.started(REQUEST) as finished:
        assert finished == 2 and set(shards.lines()) == {0, 2}
        with pytest.raises(InputError, match=r"4 of 6 pictures of .*samples are missing"):
            shards.finish(COUNT)
        write(shards, [1, 3, 4, 5])
        shards.finish(COUNT)
    assert torch.equal(SampleFolder.open(target).images(), images())
    after = (target / "00002.png").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_overwrite_starts_afresh_and_resume_goes_on(target: Path):
    write_samples(target, 255 - images(), records())
    with pytest.raises(InputError, match="is not empty"), Shards(target).started(REQUEST):
        pass
    for overwrite, resume, expected in ((True, True, 2), (True, False, 0)):
        with pytest.raises(RuntimeError), Shards(target).started(REQUEST, overwrite=True):
            write(Shards(target), [0, 1])
            raise RuntimeError
        with Shards(target).started(REQUEST, overwrite, resume) as finished:
            assert finished == expected, (overwrite, resume)
    assert torch.equal(SampleFolder.open(target).images(), 255 - images())  # until the new ones are complete
    with Shards(target).started(REQUEST, overwrite=True):
        write(Shards(target), list(range(COUNT)))
        Shards(target).finish(COUNT, overwrite=True)
    assert torch.equal(SampleFolder.open(target).images(), images())


@pytest.mark.parametrize("resume", [False, True])
def test_pictures_of_another_request_are_never_gone_on_with(target: Path, resume: bool):
    folder = stop_after(target, [0, 1])
    before = contents(folder)
    with (
        pytest.raises(InputError, match="2 pictures, by a command with another guidance, seed: repeat") as caught,
        Shards(target).started({**REQUEST, "seed": 1, "guidance": {"decoder": 2}}, resume=resume),
    ):
        pass
    assert "\n" not in str(caught.value) and contents(folder) == before
    with Shards(target).started({**REQUEST, "seed": 1}, overwrite=True, resume=resume) as finished:
        assert finished == 0 and not list(folder.glob("*.png"))


def test_two_runs_at_once(target: Path):
    with Shards(target).started(REQUEST):
        write(Shards(target), [0])
        with pytest.raises(InputError, match="being written by another process"), Shards(target).started(REQUEST):
            pass
        assert set(Shards(target).lines()) == {0}


def test_nothing_stays_of_a_run_that_finished_nothing(target: Path):
    assert not stop_after(target, []).exists()


def test_a_full_disk_is_named_and_what_is_finished_stays(target: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28), str(self))

    with pytest.raises(InputError, match=r"cannot write .*samples: No space") as caught, Shards(target).started({}):
        write(Shards(target), [0, 1])
        monkeypatch.setattr(Path, "write_bytes", full)
        write(Shards(target), [2, 3])
    assert "\n" not in str(caught.value)
    assert set(Shards(target).lines()) == {0, 1}


def test_a_kill_between_the_last_two_steps_does_no_harm(target: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Shards(target).started(REQUEST):
        write(Shards(target), list(range(COUNT)))
        monkeypatch.setattr(Path, "unlink", killed)
        Shards(target).finish(COUNT)
    monkeypatch.undo()
    assert "request.json" in contents(target)
    assert torch.equal(SampleFolder.open(target).images(), images())
    write_samples(target, images()[:2], records()[:2], overwrite=True)
    assert len(SampleFolder.open(target)) == 2 and not json.dumps(sorted(contents(target))).count("shard")
