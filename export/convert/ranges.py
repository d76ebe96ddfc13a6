"""The ranges that int8 activations are rounded in: histograms over the calibration images, cut where rounding and clipping together lose least.

The largest value ever seen is a poor end of a range: a single outlier makes every step coarser. The squared error decides between the two.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from pipelines.core.errors import DataError, MissingPartError

METHOD = "channels equalized, least squared error over 2048 bins"  # part of the name of kept ranges: change it with the method
BINS = 2048
_ERRORS_ONLY = 3
LEVELS = 127  # steps from zero to the end of the range
FEWEST_BINS = 64  # a range is never cut below this many bins: the histogram cannot judge it
_SMALLEST_END = float(np.finfo(np.float32).tiny) * BINS  # below, bins would have no width


class Magnitudes:
    """A histogram of absolute values whose end doubles whenever a larger value comes."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._end = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the absolute values of an array."""
        magnitudes = np.abs(values.ravel())
        top = float(magnitudes.max(initial=0.0))
        if top == 0.0 and self._end == 0.0:
            return
        if self._end == 0.0:
            self._end = max(top, _SMALLEST_END)
        while top > self._end:
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self._end *= 2
        self._counts += np.histogram(magnitudes, bins=BINS, range=(0.0, self._end))[0]

    def best_end(self) -> float:
        """The end of a symmetric range that loses least: inside it the mean square error is step^2 / 12, beyond it a value loses what is cut off.
        1 when only zeros were seen.
        """
        if self._end == 0.0:
            return 1.0
        width = self._end / BINS
        centres = (np.arange(BINS) + 0.5) * width
        counts = self._counts.astype(np.float64)
        ends = np.arange(1, BINS + 1) * width
        inside = np.cumsum(counts)
        above = [np.cumsum((counts * centres**power)[::-1])[::-1] - counts * centres**power for power in (0, 1, 2)]  # sums over the bins beyond
        clipped = above[2] - 2 * ends * above[1] + ends**2 * above[0]
        lost = inside * (ends / LEVELS) ** 2 / 12 + clipped
        lost[: FEWEST_BINS - 1] = np.inf
        return float(ends[int(lost.argmin())])


def measured_ranges(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], input_name: str, tensors: Collection[str]) -> dict[str, float]:
    """The best end of each tensor's symmetric range over all batches.

    Raises:
        DataError: there are no batches.
        MissingPartError: ONNX Runtime is not installed.
    """
    magnitudes = {name: Magnitudes() for name in tensors}
    for values in tensor_values(model, batches, input_name, list(tensors)):
        for name, value in values.items():
            magnitudes[name].add(value)
    return {name: item.best_end() for name, item in magnitudes.items()}


def tensor_values(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], input_name: str, tensors: Sequence[str]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What `tensors` hold for each batch; the model's input may be one of them.

    Raises:
        DataError: there are no batches.
        MissingPartError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPartError(f"ONNX Runtime is not installed ({error}): pip install onnxruntime") from error
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = [name for name in tensors if name != input_name]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seen = 0
    for batch in batches:
        seen += 1
        found = dict(zip(names, session.run(names, {input_name: batch}), strict=True))
        yield {name: batch if name == input_name else found[name] for name in tensors}
    if not seen:
        raise DataError("there are no images to measure int8 ranges on: label some, then run `dvc repro`")
