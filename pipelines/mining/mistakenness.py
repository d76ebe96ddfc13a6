"""How probable it is that a label is wrong, seen from the detection on it: FiftyOne's mistakenness (voxel51, fiftyone-brain), in closed form.

Both figures trust the scale of the confidence: 0.5 is "no idea". `pipelines.mining.labelfaults` does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.core.columns import Floats


def class_mistakenness(confidence: Floats, agrees: NDArray[np.bool_]) -> Floats:
    """0 to 1: the surer a detection of the same class (`agrees`), the less, of another class, the more."""
    result: Floats = (1 - np.where(agrees, confidence, -confidence)) / 2
    return result


def location_mistakenness(confidence: Floats, iou: Floats) -> Floats:
    """0 to 1 for IoU from 0.5, where a sure detection speaks against the label's place, to 1, where it speaks for it."""
    result: Floats = (1 + confidence * (3 - 4 * iou)) / 2
    return result
