"""Intervals over replicas are Student's; an ordering is claimed only where the replicas agree."""

from __future__ import annotations

import copy

import pytest

from eval.errors import InputError
from eval.tables.main import Cell
from eval.tables.seeds import chance, gather, holm, orderings_table, seeds_table, t_interval


def replicas(row, **frechet: list[float]) -> list[list[dict]]:
    made = []
    for k in range(len(next(iter(frechet.values())))):
        rows = [row(name, frechet={"value": v[k], "low": 0, "high": 9}) for name, v in frechet.items()]
        for one in rows:
            one["protocol"]["seed"] = k
        made.append(rows)
    return copy.deepcopy(made)


def test_t_interval():
    found = t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # Student's 0.975 quantile for 2 degrees of freedom, standard deviation 1
    assert found == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)
    assert t_interval([5.0]).value == 5 and t_interval([5.0]).low != t_interval([5.0]).low


def test_gathered_by_condition_and_metric(row):
    found = gather(replicas(row, glide=[5.0, 6.0], diffusion_prior=[3.0, 3.2]))
    assert found["glide"]["frechet"] == [5.0, 6.0] and found["diffusion_prior"]["colour"] == [0.5, 0.5]
    table = seeds_table(found, 2)
    assert table.rows[0][:2] == [Cell("GLIDE"), Cell("5.50", "[-0.85, 11.85]")]
    assert table.columns[:2] == ["condition", "Frechet ↓"] and "recall ↑" not in table.columns


def test_only_what_all_replicas_have(row):
    made = replicas(row, glide=[5.0, 6.0], diffusion_prior=[3.0, 3.2])
    del made[1][0]
    made[1][0]["accuracy"]["colour"] = None
    found = gather(made)
    assert list(found) == ["diffusion_prior"] and "colour" not in found["diffusion_prior"]


def test_orderings(row):
    found = gather(replicas(row, glide=[5.0, 7.0, 9.0], ar_prior=[4.0, 6.1, 7.9], diffusion_prior=[5.0, 6.0, 11.0]))
    said = {line[0].text: line[2].text for line in orderings_table(found).rows}
    assert said == {
        "GLIDE − AR prior": "AR prior < GLIDE",  # within each replica by about 1, though replicas differ by 4
        "GLIDE − diffusion prior": "not decided",
        "AR prior − diffusion prior": "not decided",
    }


def test_orderings_that_stay_when_all_are_tested_together(row):
    found = gather(replicas(row, glide=[5.0, 7.0, 9.0], ar_prior=[4.0, 6.1, 7.9], diffusion_prior=[3.0, 5.9, 6.1]))
    table = orderings_table(found)
    assert [line[2].text for line in table.rows] == ["AR prior < GLIDE", "not decided", "not decided"]
    assert "these 3 differences" in table.notes[1] and "0.15 would be" in table.notes[1]
    assert table.notes[1].endswith("there stay: AR prior < GLIDE.")  # p = 0.003, below 0.05 / 3
    less = gather(replicas(row, glide=[5.0, 7.0, 9.0], ar_prior=[4.0, 6.3, 7.8], diffusion_prior=[3.0, 5.9, 6.1]))
    assert orderings_table(less).rows[0][2].text == "AR prior < GLIDE"  # p = 0.02 claims alone, and not of three
    assert orderings_table(less).notes[1].endswith("there stay: none.")


def test_chances_and_the_rule_for_several():
    from scipy.stats import ttest_1samp

    for values in ([1.0, 0.9, 1.1], [-3.0, 1.0, 0.5, 0.2]):
        assert chance(values) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert chance([0.0, 0.0]) == 1 and chance([2.0, 2.0]) == 0 and chance([2.0]) == 1
    assert holm([0.03, 0.001, 0.02, 0.2]) == [False, True, False, False]  # 0.02 > 0.05 / 3 ends it
    assert holm([0.04, 0.01, 0.02]) == [True, True, True] and holm([]) == []


def test_refusals(row):
    with pytest.raises(InputError, match="needs 2 replicas or more, found 1"):
        gather(replicas(row, glide=[1.0]))
    made = replicas(row, glide=[1.0, 2.0])
    made[1][0]["protocol"]["extractor"] = "another judge"
    with pytest.raises(InputError, match="extractor"):
        gather(made)
