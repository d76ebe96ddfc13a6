"""The champion gate: AP of resamplings against hotcoco, intervals that know their noise, verdicts in 20 seeds of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.core.slices import SIZES, SliceLimits
from pipelines.core.types import Detections, GroundTruth, Sample
from pipelines.evaluation.bootstrap import average_precision, group_weights
from pipelines.evaluation.coco import coco_metrics, match_tables
from pipelines.evaluation.differences import MIN_GROUPS, WHOLE, Difference, Resampling, differences, figures, parts_of
from pipelines.evaluation.seeds import Spread, spread_of
from pipelines.evaluation.verdict import SuiteChange, Verdict, decide
from tests.detection_sets import random_sets
from tests.simulated_models import CLASSES, detector, made_test_set

LIMITS = SliceLimits(1024, 9216, 60, 190)
BOOTSTRAP_SEEDS = range(20)
NO_CHANGE = SuiteChange(0, 0)


# ---- AP of resamplings


@pytest.mark.parametrize(("seed", "images"), [(0, 30), (1, 30), (2, 150)])  # with many images the counts are made in another way
def test_ap_of_a_resampling_is_hotcocos_on_the_resampled_images(seed: int, images: int) -> None:
    truth, detections = random_sets(seed, images, 3)
    tables = match_tables(truth, detections, 3)
    weights = np.concatenate([np.ones((1, images), np.int64), group_weights([str(n // 2) for n in range(images)], 6, np.random.default_rng(seed))])
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(images), weight)
        expected = coco_metrics([truth[n] for n in drawn], [detections[n] for n in drawn], ("a", "b", "c"))
        for size in ("all", *SIZES):
            ap = np.stack([average_precision(table, weights)[row] for table in tables[size]])
            want = (expected.ap, expected.ap50) if size == "all" else (expected.sizes[size].ap, expected.sizes[size].ap50)
            known = ap[~np.isnan(ap[:, 0])]
            assert (known.mean(), known[:, 0].mean()) == pytest.approx(want, abs=1e-12)


def test_groups_are_drawn_whole_and_as_many_as_there_are() -> None:
    weights = group_weights(["a", "a", "b", "c", "c", "c"], 200, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights[:, [0, 2, 3]].mean() == pytest.approx(1.0)


@pytest.mark.parametrize("case", ["no images", "no labels", "no detections", "neither"])
def test_nothing_to_compare_is_no_verdict(case: str) -> None:
    samples, truth = made_test_set(24 if case != "no images" else 0)
    found = detector(truth, 0.8, 1)
    if case in ("no labels", "neither"):
        truth = [GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) for _ in truth]
    if case in ("no detections", "neither"):
        found = [Detections.empty() for _ in found]
    result = judged(samples, truth, found, found, 0)
    assert result.word == "inconclusive"


# ---- the gate in 20 seeds of the bootstrap


def compared(
    samples: list[Sample], truth: list[GroundTruth], old: list[Detections], new: list[Detections], seed: int, noise: Spread | None = None
) -> list[Difference]:
    return differences(samples, truth, old, new, CLASSES, LIMITS, Resampling(0.95, 200, seed), noise)


def judged(
    samples: list[Sample],
    truth: list[GroundTruth],
    old: list[Detections],
    new: list[Detections],
    seed: int,
    noise: Spread | None = None,
    same: bool = False,
) -> Verdict:
    found = compared(samples, truth, old, new, seed, noise)
    return decide(found, "AP", 0.01, 0.95, NO_CHANGE, seeds_measured=noise is not None, same_model=same)


SAMPLES, TRUTH = made_test_set(100)
CHAMPION = detector(TRUTH, 0.7, seed=1)


@pytest.fixture(scope="module")
def noise() -> Spread:
    """Five further trainings of the champion's kind."""
    return measured_noise([detector(TRUTH, 0.7, seed) for seed in range(10, 15)])


def measured_noise(models: list[list[Detections]]) -> Spread:
    once = np.ones((1, len(TRUTH)), np.int64)
    parts = parts_of(SAMPLES, CLASSES, LIMITS)
    found = [figures(parts, match_tables(TRUTH, model, 3), once) for model in models]
    spread = spread_of([{name: {key: float(value[0]) for key, value in part.items()} for name, part in model.items()} for model in found])
    assert spread is not None
    return spread


def test_a_model_against_itself_is_inconclusive(noise: Spread) -> None:
    for seed in BOOTSTRAP_SEEDS:
        assert judged(SAMPLES, TRUTH, CHAMPION, CHAMPION, seed, noise).word == "inconclusive"
    assert judged(SAMPLES, TRUTH, CHAMPION, CHAMPION, 0).word == "inconclusive"


@pytest.mark.parametrize("other", [2, 3])
def test_another_seed_is_inconclusive(noise: Spread, other: int) -> None:
    candidate = detector(TRUTH, 0.7, seed=other)
    verdicts = [judged(SAMPLES, TRUTH, CHAMPION, candidate, seed, noise) for seed in BOOTSTRAP_SEEDS]
    assert {item.word for item in verdicts} == {"inconclusive"}, [item.reasons for item in verdicts if item.word != "inconclusive"][:1]


@pytest.mark.parametrize("index", range(3))
def test_a_broken_class_is_rejected_by_its_name(noise: Spread, index: int) -> None:
    candidate = detector(TRUTH, 0.7, seed=1, broken={index: 0.25})
    for seed in BOOTSTRAP_SEEDS if index == 0 else BOOTSTRAP_SEEDS[:3]:
        verdict = judged(SAMPLES, TRUTH, CHAMPION, candidate, seed, noise)
        assert verdict.word == "reject"
        named = {name for name in CLASSES if any(f"class {name} lost" in reason for reason in verdict.reasons)}
        assert named == {CLASSES[index]}


def test_a_better_model_is_promoted(noise: Spread) -> None:
    candidate = detector(TRUTH, 0.85, seed=20)
    for seed in BOOTSTRAP_SEEDS:
        assert judged(SAMPLES, TRUTH, CHAMPION, candidate, seed, noise).word == "promote"
    assert judged(SAMPLES, TRUTH, candidate, CHAMPION, 0, noise).word == "reject"


def test_a_slice_that_broke_is_named(noise: Spread) -> None:
    worse = detector(TRUTH, 0.25, seed=1)
    candidate = [bad if sample.brightness < LIMITS.dark_below else good for sample, good, bad in zip(SAMPLES, CHAMPION, worse, strict=True)]
    verdict = judged(SAMPLES, TRUTH, CHAMPION, candidate, 0, noise)
    assert verdict.word == "reject"
    assert any(reason.startswith("brightness dark lost") for reason in verdict.reasons)


def test_intervals_hold_what_they_promise() -> None:
    """Of many pairs of equal quality the interval of the whole misses 0 about as rarely as it says, seed noise included."""
    misses = 0
    for pair in range(40):
        samples, truth = made_test_set(60, seed=100 + pair)
        old, new = detector(truth, 0.7, 1000 + pair), detector(truth, 0.7, 2000 + pair)
        whole = next(item for item in compared(samples, truth, old, new, pair) if item.name == WHOLE)
        low, high = whole.low["AP"], whole.high["AP"]
        assert low is not None
        assert high is not None
        misses += not low <= 0 <= high
    assert misses <= 8  # 2 expected; 9 or more of 40 have a probability below 0.001 at 5 %


def test_few_groups_are_not_judged() -> None:
    samples, truth = made_test_set(2 * (MIN_GROUPS - 1))
    verdict = judged(samples, truth, detector(truth, 0.9, 1), detector(truth, 0.1, 1), 0)
    assert verdict.word == "inconclusive"
    assert f"at least {MIN_GROUPS} are needed" in verdict.reasons[0]


# ---- the verdict by hand


def hand(name: str, low: float, high: float, judged: bool = True) -> Difference:
    middle = (low + high) / 2
    return Difference(
        name, 50, 25, {"AP": 0.5, "AP50": 0.7}, {"AP": 0.5 + middle, "AP50": 0.7}, {"AP": low, "AP50": 0}, {"AP": high, "AP50": 0}, judged
    )


BETTER, SAME, WORSE = hand(WHOLE, 0.01, 0.05), hand(WHOLE, -0.02, 0.03), hand(WHOLE, -0.08, -0.02)
BY_HAND: dict[str, tuple[list[Difference], SuiteChange, bool, str, str]] = {
    "better": ([BETTER], NO_CHANGE, False, "promote", "the whole test set gained 3.0 points of AP (+1.0 to +5.0)"),
    "no difference shown": ([SAME], NO_CHANGE, False, "inconclusive", "the interval holds 0"),
    "a loss that may be within the tolerance": (
        [hand(WHOLE, -0.02, -0.004)],
        NO_CHANGE,
        False,
        "inconclusive",
        "lost 1.2 points of AP (-2.0 to -0.4): not shown to be more than the tolerance of 1.0 points",
    ),
    "worse": ([WORSE], NO_CHANGE, False, "reject", "the whole test set lost 5.0 points"),
    "better, but a class broke": ([BETTER, hand("class=nut", -0.3, -0.1)], NO_CHANGE, False, "reject", "class nut lost 20.0 points"),
    "a loss within the tolerance": ([BETTER, hand("class=nut", -0.02, -0.009)], NO_CHANGE, False, "promote", "gained"),
    "a loss that cannot be judged": ([BETTER, hand("class=nut", -0.3, -0.1, judged=False)], NO_CHANGE, False, "promote", "gained"),
    "the suite broke": ([BETTER], SuiteChange(0, 5), False, "reject", "5 items of the regression suite broke and 0 were fixed"),
    "some of the suite broke": ([BETTER], SuiteChange(3, 5), False, "promote", "gained"),
    "the same model": ([SAME], NO_CHANGE, True, "inconclusive", "the candidate is the champion itself"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_verdicts(name: str) -> None:
    found, suite, same, word, reason = BY_HAND[name]
    verdict = decide(found, "AP", 0.01, 0.95, suite, seeds_measured=True, same_model=same)
    assert verdict.word == word
    assert any(reason in item for item in verdict.reasons), verdict.reasons
    assert verdict.notes == (("too few groups of images (fewer than 10) to judge class=nut",) if "cannot be judged" in name else ())


# ---- noise between seeds


def test_the_spread_is_moderated_towards_the_mean_of_the_classes() -> None:
    values = {"all": (0.5, 0.5, 0.56), "class=a": (0.4, 0.5, 0.6), "class=b": (0.5, 0.5, 0.5)}
    spread = spread_of([{name: {"AP": row[n]} for name, row in values.items()} for n in range(3)])
    assert spread is not None
    prior = (0.01 + 0.0) / 2  # the variances of the two classes
    assert spread.sd("class=a", "AP") ** 2 == pytest.approx((4 * prior + 2 * 0.01) / 6)
    assert spread.sd("class=b", "AP") ** 2 == pytest.approx(4 * prior / 6)
    assert spread.sd("all", "AP") ** 2 == pytest.approx((4 * prior / 2 + 2 * 0.0012) / 6)
    assert spread.sd("source=new", "AP") ** 2 == pytest.approx(prior)
    assert spread.degrees_of_freedom == 6
    assert spread_of([{}, {}]) is None
