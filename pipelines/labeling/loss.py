"""Whether a pull lost labels that the last snapshot had: the guard against a project that was emptied, or a wrong one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.errors import DataError, listed
from pipelines.core.types import Annotation

_ANSWERED = ("labeled", "verified_empty")


def require_few_lost(before: Sequence[Annotation], after: Sequence[Annotation], max_fraction: float) -> None:
    """Compare two snapshots. A verified-empty image counts as one label, a labeled one as its boxes.

    An image that has more labels than before makes up for no other.

    Raises:
        DataError: more than `max_fraction` of the labels before are gone; the message names the images that lost most.
    """
    now = {item.image_id: _labels(item) for item in after}
    lost = {item.image_id: _labels(item) - now.get(item.image_id, 0) for item in before if _labels(item) > now.get(item.image_id, 0)}
    total = sum(_labels(item) for item in before)
    if sum(lost.values()) <= max_fraction * total:
        return
    worst = sorted(lost.items(), key=lambda pair: (-pair[1], pair[0]))
    raise DataError(
        f"{sum(lost.values())} of {total} labels would vanish on {len(lost)} images, more than labeling.max_loss_fraction = {max_fraction:g} allows: "
        f"the last snapshot stays. If they were deleted on purpose, run `detloop labels pull --accept-loss`. "
        f"{listed([f'{image_id[:12]} loses {count}' for image_id, count in worst], 5)}"
    )


def _labels(item: Annotation) -> int:
    return max(1, len(item.boxes)) if item.state in _ANSWERED else 0
