"""How much the figures of a training change with nothing but its seed.

Measured by training several times (`detloop noise`). A handful of seeds tells little about one class, so each part's variance is moderated: it is
averaged with the mean variance of all classes, which counts as PRIOR_SEEDS further ones (Smyth 2004, the moderated t-statistic of limma).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_SEEDS = 3
PRIOR_SEEDS = 4
CLASS = "class="

Figures = Mapping[str, Mapping[str, float | None]]  # part name, metric, value: of one training


@dataclass(frozen=True)
class Spread:
    """The figures of trainings that differ by their seed alone, on the same test set; at least MIN_SEEDS of them."""

    trainings: tuple[Figures, ...]

    @property
    def degrees_of_freedom(self) -> int:
        """Of every `sd`: those of the seeds, and those that the prior counts for."""
        return len(self.trainings) - 1 + PRIOR_SEEDS

    def sd(self, part: str, metric: str) -> float:
        """Standard deviation of one training's figure; a part without figures gets the mean over classes."""
        typical = self._typical(metric)
        prior = typical if part != "all" else typical / max(self._class_count(), 1)
        own = _variance(self.trainings, part, metric)
        if own is None:
            return float(np.sqrt(prior))
        seeds = len(self.trainings) - 1
        return float(np.sqrt((PRIOR_SEEDS * prior + seeds * own) / (PRIOR_SEEDS + seeds)))

    def _class_count(self) -> int:
        return sum(name.startswith(CLASS) for name in self.trainings[0])

    def _typical(self, metric: str) -> float:
        """Mean variance over the classes."""
        found = [_variance(self.trainings, name, metric) for name in self.trainings[0] if name.startswith(CLASS)]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else 0.0


def spread_of(trainings: Sequence[Figures]) -> Spread | None:
    """The spread of these trainings; None where there are too few to say anything."""
    return Spread(tuple(trainings)) if len(trainings) >= MIN_SEEDS else None


def _variance(trainings: Sequence[Figures], part: str, metric: str) -> float | None:
    values = [training.get(part, {}).get(metric) for training in trainings]
    known = [value for value in values if value is not None]
    return float(np.var(known, ddof=1)) if len(known) == len(trainings) else None
