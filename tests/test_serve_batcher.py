"""The queue before the workers, and the sample of requests: without a network."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.serve.batcher import Batcher, BatchLimits, QueueFullError
from export.serve.feedback import Sample, Served
from tests.serving import wait_for


class Doubler:
    """Doubles numbers, in the batches that it records, once `go` is set; refuses 13 alone."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append([*items])
        assert self.go.wait(30)
        if items == [13]:
            raise ValueError("13")
        return [2 * item for item in items]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


def test_each_item_gets_its_own_result(doubler: Doubler) -> None:
    doubler.go.set()
    batcher = Batcher(doubler, limits=BatchLimits(1000, 8, 0), workers=3)
    futures = [future for start in range(0, 600, 3) for future in batcher.submit(range(start, start + 3))]
    assert [future.result(30) for future in futures] == [2 * item for item in range(600)]
    batcher.close()
    assert sorted(item for batch in doubler.batches for item in batch) == [*range(600)]
    assert max(map(len, doubler.batches)) <= 8


def test_what_waits_goes_in_batches_and_too_much_is_refused_whole(doubler: Doubler) -> None:
    batcher = Batcher(doubler, limits=BatchLimits(5, 3, 0), workers=1)
    futures = batcher.submit([0])
    wait_for(lambda: doubler.batches == [[0]])  # the worker is busy from now on
    futures += batcher.submit([1, 2, 3, 4])
    with pytest.raises(QueueFullError):
        batcher.submit([5, 6])
    futures += batcher.submit([7])
    with pytest.raises(QueueFullError):
        batcher.submit([8])
    assert batcher.waiting() == 5
    doubler.go.set()
    assert [future.result(30) for future in futures] == [0, 2, 4, 6, 8, 14]
    batcher.close()
    assert doubler.batches == [[0], [1, 2, 3], [4, 7]]


def test_two_workers_share_what_waits(doubler: Doubler) -> None:
    batcher = Batcher(doubler, limits=BatchLimits(100, 8, 0), workers=2)
    for item in (0, 1):
        batcher.submit([item])
        wait_for(lambda count=item + 1: len(doubler.batches) == count)
    futures = batcher.submit([2, 3, 4, 5])
    doubler.go.set()
    assert [future.result(30) for future in futures] == [4, 6, 8, 10]
    batcher.close()
    assert len(doubler.batches[2]) == 2  # not all four, though a batch may have eight


def test_a_batch_waits_to_fill(doubler: Doubler) -> None:
    doubler.go.set()
    batcher = Batcher(doubler, limits=BatchLimits(100, 3, 60), workers=1)
    futures = [batcher.submit([item])[0] for item in range(3)]
    assert [future.result(30) for future in futures] == [0, 2, 4]  # long before the 60 s are over
    batcher.close()
    assert doubler.batches == [[0, 1, 2]]


def test_a_failing_batch_is_its_own_and_the_worker_goes_on(doubler: Doubler) -> None:
    doubler.go.set()
    batcher = Batcher(doubler, limits=BatchLimits(100, 1, 0), workers=1)
    futures = batcher.submit([12, 13, 14])
    assert futures[0].result(30) == 24
    with pytest.raises(ValueError, match="13"):
        futures[1].result(30)
    assert futures[2].result(30) == 28
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more(doubler: Doubler) -> None:
    batcher = Batcher(doubler, limits=BatchLimits(100, 2, 60), workers=1)
    futures = batcher.submit([1, 2, 3])
    closer = threading.Thread(target=batcher.close)
    closer.start()
    wait_for(lambda: _refuses(batcher))
    doubler.go.set()
    closer.join(30)
    assert [future.result(0) for future in futures] == [2, 4, 6]


def test_items_whose_sender_left_are_not_worked_on(doubler: Doubler) -> None:
    batcher = Batcher(doubler, limits=BatchLimits(100, 8, 0), workers=1)
    batcher.submit([1])
    wait_for(lambda: len(doubler.batches) == 1)
    gone, stays = batcher.submit([2, 3])
    assert gone.cancel()
    doubler.go.set()
    assert stays.result(30) == 6
    batcher.close()
    assert doubler.batches == [[1], [3]]


def _refuses(batcher: Batcher[int, int]) -> bool:
    try:
        batcher.submit([])
    except QueueFullError:
        return True
    return False


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0]))), st.integers(0, 6))
def test_the_sample_holds_the_least_confident(requests: list[tuple[int, float]], size: int) -> None:
    """Against sorting: each picture once (its first request that is kept counts), equal ones as they came."""
    sample = Sample(size)
    of_picture = {}
    for picture, confidence in requests:
        confidence = of_picture.setdefault(picture, confidence)  # the same bytes give the same answer
        sample.offer(Served(bytes([picture]), "png", confidence, [], "runner", datetime.now(UTC)))
    expected = sorted(of_picture, key=of_picture.__getitem__)[:size]
    assert [served.content[0] for _, served in sample.take()] == expected
    assert sample.take() == []
