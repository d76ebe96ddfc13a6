"""Near-duplicates: the index against brute force, the second look on pairs made on purpose and on real pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.collect.fates import find_clusters
from pipelines.collect.hash_index import candidate_pairs
from pipelines.collect.measure import Measurement, measure
from pipelines.collect.near import Nodes, join, near_clusters, roots, stand_ins, thumbnail_differences
from tests.images import picture

RADIUS, DIFFERENCE = 6, 12.0
Image = NDArray[np.uint8]


def pairs_of(measurements: list[Measurement]) -> list[tuple[int, int]]:
    """All near-duplicate pairs, without the shortcut over what is joined already: each pair of images on its own."""
    thumbnails = np.array([np.frombuffer(item.thumbnail, np.uint8).reshape(32, 32) for item in measurements], np.uint8).reshape(-1, 32, 32)
    hashes = np.array([item.phash for item in measurements], np.uint64)
    blocks = candidate_pairs(hashes, RADIUS)
    looked = [(pairs, thumbnail_differences(thumbnails.__getitem__, pairs, DIFFERENCE) <= DIFFERENCE) for pairs in blocks]
    return sorted((int(a), int(b)) for pairs, close in looked for a, b in pairs[close])


def measured(image: Image, quality: int = 90) -> Measurement:
    return measure(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(), 10**8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), radius=st.integers(0, 16))
def test_candidates_are_those_of_brute_force(data: st.DataObject, radius: int) -> None:
    seeds = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = data.draw(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 63), max_size=20)), max_size=24))
    values = [*seeds]
    for which, bits in flips:
        value = seeds[which % len(seeds)]
        for bit in bits:
            value ^= 1 << bit
        values.append(value)
    fresh = data.draw(st.none() | st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    mask = None if fresh is None else np.array(fresh)
    found = [tuple(pair) for block in candidate_pairs(np.array(values, np.uint64), radius, mask) for pair in block.tolist()]
    expected = {(i, j) for i in range(len(values)) for j in range(i + 1, len(values)) if (values[i] ^ values[j]).bit_count() <= radius}
    if fresh is not None:
        expected = {(i, j) for i, j in expected if fresh[i] or fresh[j]}
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_no_images_and_one_image_have_no_pairs() -> None:
    assert pairs_of([]) == []
    assert pairs_of([measured(np.asarray(picture(1)))]) == []


SAME: dict[str, Callable[[Image], Image]] = {
    "recompressed": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR),
    "half_size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, None, fx=1.3, fy=1.3),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1, beta=10),
    "darker": lambda image: cv2.convertScaleAbs(image, alpha=0.7),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    "shifted_4px": lambda image: np.roll(image, 4, axis=1),
}


def test_altered_copies_of_real_pictures_are_found(shared: Path) -> None:
    found = dict.fromkeys(SAME, 0)
    paths = sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))[::30]
    for path in paths:
        image = cv2.imread(str(path))
        assert image is not None
        original = measure(path.read_bytes(), 10**8)
        for name, alter in SAME.items():
            found[name] += bool(pairs_of([original, measured(alter(image))]))
    exact = {name for name in SAME if name != "shifted_4px"}
    assert {name: found[name] for name in exact} == dict.fromkeys(exact, len(paths))
    assert found["shifted_4px"] >= len(paths) - 2


def test_real_smears_hold_exactly_the_known_pair(shared: Path) -> None:
    paths = sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))
    found = pairs_of([measure(path.read_bytes(), 10**8) for path in paths])
    assert [(paths[a].stem, paths[b].stem) for a, b in found] == [("BloodImage_00037", "BloodImage_00038")]


def test_a_fixed_camera_gives_pairs_only_where_nothing_moved(shared: Path) -> None:
    video = cv2.VideoCapture(str(shared / "data/video/one-by-one-person-detection.mp4"))
    frames: list[Image] = []
    for number in range(400):
        good, frame = video.read()
        assert good
        if number % 10 == 0:
            frames.append(frame.astype(np.uint8))
    small = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (96, 54), interpolation=cv2.INTER_AREA).astype(int) for frame in frames]
    found = set(pairs_of([measured(frame) for frame in frames]))
    assert found
    for a in range(len(frames)):
        for b in range(a + 1, len(frames)):
            moved = (np.abs(small[a] - small[b]) > 60).sum()  # cells of 8 x 8 pixels that really changed: a person covers about 700
            assert not ((a, b) in found and moved > 250), (a, b, moved)
            assert not ((a, b) not in found and np.abs(small[a] - small[b]).max() <= 6), (a, b)


def test_an_object_that_came_parts_two_frames() -> None:
    scene = np.asarray(picture(3, (640, 480))).copy()
    other = scene.copy()
    cv2.circle(other, (300, 200), 18, (250, 250, 250), -1)
    assert not pairs_of([measured(scene), measured(other)])
    assert pairs_of([measured(scene), measured(scene, quality=50)])


def test_the_difference_is_symmetric_and_zero_for_itself() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    thumbnails = np.array(
        [base, np.clip(base * 0.8 + 3, 0, 255).astype(np.uint8), rng.integers(0, 256, (32, 32)), np.full((32, 32), 7)], dtype=np.uint8
    )
    every = np.array([(a, b) for a in range(4) for b in range(4)])
    table = thumbnail_differences(thumbnails.__getitem__, every, 255.0).reshape(4, 4)
    assert np.allclose(table, table.T, atol=1e-4)
    assert np.allclose(np.diag(table), 0)
    assert table[0, 1] < 1  # another exposure
    assert table[0, 2] > 50


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_components_are_those_of_a_closure(count: int, links: list[tuple[int, int]]) -> None:
    links = [(a % count, b % count) for a, b in links]
    reach = np.eye(count, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    for _ in range(count):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    parent = np.arange(count)
    join(parent, links)
    assert roots(parent, np.arange(count)).tolist() == [int(np.flatnonzero(row)[0]) for row in reach]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_clusters_are_those_of_all_pairs_however_the_images_came(data: st.DataObject) -> None:
    """In parts, some taken away again: the same clusters as all at once, and as a closure over every pair."""
    scenes = [np.asarray(picture(seed).convert("L").resize((32, 32))) for seed in range(3)]
    shifts = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=1, max_size=14))
    thumbnails = np.array([np.roll(scenes[scene], shift // 4, axis=1) + np.uint8(shift % 4) for scene, shift in shifts], np.uint8)
    flips = data.draw(st.lists(st.integers(0, 2**8 - 1), min_size=len(shifts), max_size=len(shifts)))
    hashes = np.array([(scene << 60) | flip for (scene, _), flip in zip(shifts, flips, strict=True)], np.uint64)
    table = pl.DataFrame({"phash": hashes, "thumbnail_at": np.arange(len(shifts))})
    table = table[data.draw(st.permutations(range(len(shifts))))]
    none: Nodes = np.zeros(0, np.int64)
    known = none
    for count in sorted(data.draw(st.lists(st.integers(0, len(shifts)), min_size=3, max_size=3))):  # thumbnails that there are by then
        part = table.filter(pl.col("thumbnail_at").is_in([place for place in range(count) if data.draw(st.booleans())]))
        known = find_clusters(part, thumbnails[:count], known, RADIUS, DIFFERENCE)
    known = find_clusters(table, thumbnails, known, RADIUS, DIFFERENCE)
    assert known.tolist() == find_clusters(table, thumbnails, none, RADIUS, DIFFERENCE).tolist()
    close = [
        (a, b)
        for a in range(len(shifts))
        for b in range(a + 1, len(shifts))
        if int(hashes[a] ^ hashes[b]).bit_count() <= RADIUS
        and thumbnail_differences(thumbnails.__getitem__, np.array([[a, b]]), DIFFERENCE)[0] <= DIFFERENCE
    ]
    parent = np.arange(len(shifts))
    join(parent, close)
    assert known.tolist() == roots(parent, np.arange(len(shifts))).tolist()


@settings(max_examples=60, deadline=None)
@given(shifts=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60)), min_size=1, max_size=14))
def test_who_stands_for_another_is_its_near_duplicate(shifts: list[tuple[int, int]]) -> None:
    """Of any pictures: whoever stands for another is near it and better, whoever stands alone is near no better one that does."""
    scenes = [np.asarray(picture(seed).convert("L").resize((96, 32))) for seed in range(2)]
    thumbnails = np.array([scenes[scene][:, shift : shift + 32] for scene, shift in shifts], np.uint8)
    hashes = np.array([(1 << shift // 4) - 1 for _, shift in shifts], np.uint64)
    table = pl.DataFrame({"phash": hashes, "thumbnail_at": np.arange(len(shifts))})
    clusters = find_clusters(table, thumbnails, np.zeros(0, np.int64), RADIUS, DIFFERENCE)
    order = np.lexsort((np.arange(len(shifts)), clusters))
    found = stand_ins(hashes[order], lambda nodes: thumbnails[order[nodes]], RADIUS, DIFFERENCE, clusters[order])
    stands = {int(order[place]): int(order[other]) for place, other in enumerate(found)}

    def near(a: int, b: int) -> bool:
        bits = int(hashes[a] ^ hashes[b]).bit_count()
        return bits <= RADIUS and bool(thumbnail_differences(thumbnails.__getitem__, np.array([[a, b]]), DIFFERENCE)[0] <= DIFFERENCE)

    alone = [a for a, b in stands.items() if a == b]
    assert all(b in alone and b < a and near(a, b) for a, b in stands.items() if a != b)
    assert not any(near(a, b) for a in alone for b in alone if a < b)


def test_a_slow_pan_is_one_cluster_and_many_looks(shared: Path) -> None:
    """Each frame is a near-duplicate of the next; the first and the last show other cells. One of them must not stand for all."""
    smears = [cv2.imread(str(shared / f"data/bccd/JPEGImages/BloodImage_000{number}.jpg")) for number in (10, 11)]
    field = np.concatenate([smear for smear in smears if smear is not None], axis=1)
    frames = [measured(field[:, left : left + 640].astype(np.uint8)) for left in range(0, 641, 4)]
    thumbnails = np.stack([np.frombuffer(frame.thumbnail, np.uint8).reshape(32, 32) for frame in frames])
    hashes = np.array([frame.phash for frame in frames], np.uint64)
    clusters = near_clusters(hashes, thumbnails.__getitem__, RADIUS, DIFFERENCE)
    assert not clusters.any()
    stands = stand_ins(hashes, thumbnails.__getitem__, RADIUS, DIFFERENCE, clusters)
    assert 10 <= len(np.unique(stands)) <= 60
    moved = 4 * np.abs(np.arange(len(frames)) - stands)
    assert moved.max() <= 80  # pixels of 640: what stands for a frame shows nearly all of it


def test_a_thousand_frames_of_a_still_scene_are_one_cluster() -> None:
    rng = np.random.default_rng(3)
    scene = rng.integers(20, 220, (32, 32))
    thumbnails = np.clip(scene + rng.integers(-2, 3, (1000, 32, 32)), 0, 255).astype(np.uint8)
    hashes = np.uint64(0xF0F0) ^ (np.uint64(1) << rng.integers(0, 64, 1000).astype(np.uint64))
    looked = []
    root = near_clusters(hashes, lambda nodes: looked.append(len(nodes)) or thumbnails[nodes], RADIUS, DIFFERENCE)  # type: ignore[func-returns-value]
    assert not root.any()
    assert sum(looked) < 20_000  # pictures, for half a million pairs
    looked.clear()
    stands = stand_ins(hashes, lambda nodes: looked.append(len(nodes)) or thumbnails[nodes], RADIUS, DIFFERENCE, root)  # type: ignore[func-returns-value]
    assert not stands.any()
    assert sum(looked) < 2_000
