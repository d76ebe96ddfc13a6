"""Work spread over a Ray cluster by Ray Data, results in the order of the items. Owner of ray.

Joins the cluster that RAY_ADDRESS names; without it one is started on this machine. Folders that the work reads and writes must be reachable from
every node under the same path.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pipelines.core.errors import MissingPartError

Item = TypeVar("Item")
Result = TypeVar("Result")

_BLOCKS_A_CORE = 4  # enough that a slow block does not keep the others waiting


def map_on_ray(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`work` of every item, in order. Items, results and `work` travel as pickles, so any value of ours may stand in them.

    Raises:
        MissingPartError: ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPartError(
            f'executor: ray needs Ray, which is not here ({error}): `pip install "detloop[ray]"`, or set executor: local'
        ) from error
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "result": pickle.dumps(work(pickle.loads(row["item"])))}

    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    blocks = min(len(rows), _BLOCKS_A_CORE * int(ray.cluster_resources().get("CPU", 1)))
    waiting: dict[int, bytes] = {}
    following = 0
    for row in ray.data.from_items(rows, override_num_blocks=blocks).map(one).iter_rows() if rows else ():
        waiting[row["number"]] = row["result"]
        while following in waiting:  # rows come in any order
            yield pickle.loads(waiting.pop(following))
            following += 1
