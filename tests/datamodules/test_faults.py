"""Faults are counted once, told, written down and bounded."""

import json

import pytest

from datamodules.faults import SHOWN, Fault, FaultLog, FaultPolicy
from modules.errors import InputError


def log(on_error="skip", max_skipped=1000.0, pairs=100):
    made = FaultLog(FaultPolicy(on_error, max_skipped), "train")
    made.pairs = pairs
    return made


@pytest.mark.parametrize(
    ("max_skipped", "pairs", "limit"), [(0.01, 5000, 50), (0.01, 3, 1), (0, 100, 0), (7, 100, 7), (0.5, 3, 2)]
)
def test_the_limit_is_a_number_or_a_share_of_which_one_is_always_within(max_skipped, pairs, limit):
    assert FaultPolicy(max_skipped=max_skipped).limit(pairs) == limit
    counted = log(max_skipped=max_skipped, pairs=pairs)
    for k in range(limit):
        counted.add(Fault(str(k), "bad"))
    with pytest.raises(
        InputError, match=rf"{limit + 1} skipped from train \({limit + 1} for bad\): more than the {limit} "
    ):
        counted.add(Fault("last", "bad"))


def test_a_fault_counts_once_and_with_the_pairs_that_it_costs(tmp_path):
    counted = log()
    counted.file = tmp_path / "skipped.jsonl"
    for _ in range(3):
        counted.add(Fault("a", "bad", "why"))
    counted.add(Fault("a", "worse"))
    counted.add(Fault("shard", "missing", pairs=500))
    assert len(counted) == 502
    assert counted.summary() == "502 skipped from train (500 for missing, 1 for bad, 1 for worse)"
    lines = [json.loads(line) for line in counted.file.read_text().splitlines()]
    assert lines[0] == {"split": "train", "place": "a", "kind": "bad", "detail": "why", "pairs": 1}
    assert [line["kind"] for line in lines] == ["bad", "worse", "missing"]
    assert log().summary() == "nothing skipped from train"


def test_only_the_first_are_told_one_by_one(caplog):
    counted = log()
    for k in range(SHOWN + 5):
        counted.add(Fault(f"file {k}", "bad"))
    assert [record.message for record in caplog.records][-1] == (
        f"skipped from train: file {SHOWN - 1}: bad; further ones are counted"
    )
    assert len(caplog.records) == SHOWN
    counted.tell()
    assert caplog.records[-1].message.startswith(f"{SHOWN + 5} skipped")


def test_refusing_names_the_fault():
    with pytest.raises(
        InputError, match=r"a\.jpg: bad \(why\); correct it, or skip such pairs with faults\.on_error: skip"
    ):
        log("refuse").add(Fault("a.jpg", "bad", "why"))


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    counted = log()
    counted.file = tmp_path / "none" / "skipped.jsonl"
    counted.add(Fault("a", "bad"))
    counted.add(Fault("b", "bad"))
    assert len(counted) == 2
    assert "can't be written: No such file" in caplog.text


def test_what_is_read_has_a_share_of_its_own(tmp_path):
    """A share of a large source would let a small split lose all of its pairs."""
    shared = log(max_skipped=0.1, pairs=1000)
    shared.add(Fault("list", "no caption", pairs=90))
    shared.read(20)
    for k in range(2):
        shared.add(Fault(str(k), "bad"))
    with pytest.raises(
        InputError,
        match=r"93 skipped from train .* more than the 2 that .* \(0.1\) allows beside the 90 that were left out",
    ):
        shared.add(Fault("third", "bad"))
    number = log(max_skipped=91, pairs=1000)
    number.add(Fault("list", "no caption", pairs=90))
    number.read(20)
    number.add(Fault("0", "bad"))
    with pytest.raises(InputError, match=r"92 skipped from train .* more than the 91 that .* allows; the last: 1: bad"):
        number.add(Fault("1", "bad"))


def test_what_is_only_known_to_be_lost_at_least_is_said_so(tmp_path):
    counted = log()
    counted.file = tmp_path / "skipped.jsonl"
    counted.add(Fault("a", "bad", pairs=3))
    counted.add(Fault("b", "cut", exact=False))
    assert counted.summary() == "at least 4 skipped from train (3 for bad, at least 1 for cut)"
    lines = [json.loads(line) for line in counted.file.read_text().splitlines()]
    assert [line.get("exact") for line in lines] == [None, False]


def test_a_run_that_goes_on_writes_what_is_new(tmp_path):
    file = tmp_path / "skipped.jsonl"
    for faults in (["a", "b\u2028"], ["a", "b\u2028", "c"]):
        counted = log()
        counted.file = file
        for place in faults:
            counted.add(Fault(place, "bad"))
        other = FaultLog(FaultPolicy(max_skipped=9), "val")
        other.file = file
        other.add(Fault("a", "bad"))
        with file.open("a") as lines:
            lines.write('{"split": "train", "pla\n')  # Half a line, of a process that was killed.
    rows = [line for line in file.read_text().split("\n") if line.endswith("}")]
    assert [(json.loads(row)["split"], json.loads(row)["place"]) for row in rows] == [
        ("train", "a"),
        ("train", "b\u2028"),
        ("val", "a"),
        ("train", "c"),
    ]


def test_what_was_found_before_there_was_a_file_is_written_into_it(tmp_path):
    counted = log()
    counted.add(Fault("a", "bad"))
    for _ in range(2):
        counted.write_into(tmp_path, 0)
        counted.add(Fault("b", "bad"))
    assert [json.loads(line)["place"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()] == ["a", "b"]
    counted.write_into(tmp_path, 1)
    assert len((tmp_path / "1-skipped.jsonl").read_text().splitlines()) == 2
    assert counted.quiet
