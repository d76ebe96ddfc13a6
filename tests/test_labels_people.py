"""Agreement corrected for chance, and what became of pre-labels: published examples and figures worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.types import Box
from pipelines.formats.reading import ReadBox
from pipelines.labeling.people import NOTHING, cohens_kappa, krippendorffs_alpha, units
from pipelines.labeling.prelabel_accounts import outcomes

A, B, C = (Box("bolt", (x, 0.0, x + 40, 40.0)) for x in (0.0, 100.0, 200.0))
NAMES = st.sampled_from(["bolt", "nut", NOTHING])


def test_cohens_kappa_of_the_textbook_table():
    # 50 grants judged by two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 0.7 observed, 0.5 by chance
    table = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohens_kappa(table) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("left", "right", "alpha"),
    [("0100000010", "1110010000", 0.095), ("aabbdcccedda", "babbbcccedd" + "d", 0.692)],
    ids=["two values", "five values"],
)
def test_krippendorffs_alpha_of_its_authors_examples(left: str, right: str, alpha: float):
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), sections A and B
    assert krippendorffs_alpha(list(zip(left, right, strict=True))) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("found", [[], [("bolt", "bolt")] * 5], ids=["nothing", "one class only"])
def test_where_nothing_could_differ_there_is_no_figure(found: list[tuple[str, str]]):
    assert (cohens_kappa(found), krippendorffs_alpha(found)) == (None, None)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=30))
def test_agreement_does_not_depend_on_who_is_first_and_is_one_at_most(found: list[tuple[str, str]]):
    turned = [(b, a) for a, b in found]
    for figure in (cohens_kappa, krippendorffs_alpha):
        assert figure(turned) == pytest.approx(figure(found))
        assert (figure(found) or 0) <= 1 + 1e-12
    same = [(a, a) for a, _ in found]
    assert krippendorffs_alpha(same) in (None, 1)


def test_units_of_an_image():
    nut = Box("nut", (2.0, 0.0, 42.0, 40.0))  # 38 x 40 of A
    assert sorted(units([A, B], [nut, C], 0.5)) == [("", "bolt"), ("bolt", ""), ("bolt", "nut")]
    assert units([], [], 0.5) == []


def _reads(*boxes: Box, prefix: str = "r") -> list[ReadBox]:
    return [ReadBox(box, f"region {prefix}{number}") for number, box in enumerate(boxes)]


def test_a_region_keeps_its_identity_wherever_it_went():
    far, nut = Box("bolt", (500.0, 300.0, 540.0, 340.0)), Box("nut", B.xyxy)
    assert outcomes(_reads(A, B, C), _reads(far, nut, C), 0.5) == {"moved": 1, "reclassified": 1, "accepted": 1, "deleted": 0, "added": 0}


def test_without_identity_the_overlap_decides():
    shifted = Box("bolt", (10.0, 0.0, 50.0, 40.0))  # 30 x 40 of 50 x 40: IoU 0.6
    other = Box("nut", (100.4, 0.0, 140.4, 40.0))
    added = Box("nut", (300.0, 300.0, 340.0, 340.0))
    found = outcomes(_reads(A, B, C), _reads(shifted, other, added, prefix="new"), 0.5)
    assert found == {"moved": 1, "reclassified": 1, "deleted": 1, "added": 1}
    assert outcomes(_reads(A), _reads(shifted, prefix="new"), 0.7) == {"deleted": 1, "added": 1}


def test_half_a_pixel_is_no_move():
    nudged = Box("bolt", (0.5, 0.0, 40.5, 40.0))
    assert outcomes(_reads(A), _reads(nudged), 0.5)["accepted"] == 1
    assert outcomes([], _reads(A), 0.5) == {"added": 1, "deleted": 0}
    assert outcomes(_reads(A), [], 0.5) == {"added": 0, "deleted": 1}
