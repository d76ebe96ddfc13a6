"""How much the figures of a training change with nothing but its seed.

Measured by training several times (`detloop noise`). A handful of seeds tells little about one class, so each part's variance is moderated: it is
averaged with the mean variance of all classes, which counts as PRIOR_SEEDS further ones (Smyth 2004, the moderated t-statistic of limma).

The trainings are measured on one test set, so that their variance has two components (Searle, Casella, McCulloch, "Variance Components", 1992): what
a seed changes on any images, and what it changes on just these. The bootstrap of a difference holds the second already, so only the first is added to
it: the variance between the trainings minus the image variance, which a bootstrap of the trainings themselves gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SEEDS = 3
PRIOR_SEEDS = 4
CLASS = "class="
IMAGE_SD = "{}_image_sd"  # the key beside a metric: see `Spread.image_variance`

Figures = Mapping[str, Mapping[str, float | None]]  # part name, metric, value: of one training


@dataclass(frozen=True)
class Spread:
    """The figures of trainings that differ by their seed alone, on the same test set; at least MIN_SEEDS of them.

    Under IMAGE_SD each part tells how much the training's distance from the mean of all of them varies with the test images, as a standard deviation.
    """

    trainings: tuple[Figures, ...]

    @property
    def degrees_of_freedom(self) -> int:
        """Of every `sd`: those of the seeds, and those that the prior counts for."""
        return len(self.trainings) - 1 + PRIOR_SEEDS

    def sd(self, part: str, metric: str) -> float:
        """Standard deviation of one training's figure on this test set; a part without figures gets the mean over classes."""
        typical = self._typical(metric)
        prior = typical if part != "all" else typical / max(self._class_count(), 1)
        own = _variance(self.trainings, part, metric)
        if own is None:
            return float(np.sqrt(prior))
        seeds = len(self.trainings) - 1
        return float(np.sqrt((PRIOR_SEEDS * prior + seeds * own) / (PRIOR_SEEDS + seeds)))

    def image_variance(self, part: str, metric: str) -> float:
        """The part of a training's variance that is due to these test images; 0, and so a wider noise, where it was not measured."""
        found = [training.get(part, {}).get(IMAGE_SD.format(metric)) for training in self.trainings]
        known = [value for value in found if value is not None]
        return sum(value**2 for value in known) / (len(self.trainings) - 1) if len(known) == len(self.trainings) else 0.0

    def draws(self, parts: Sequence[str], metric: str, count: int, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Draws (count,) for each part: by how much two trainings differ, on any images, when their seed alone differs.

        The variance is drawn too, as what a chi-squared variable leaves open of it, before the image variance is taken off (Weerahandi, "Generalized
        confidence intervals", JASA 88, 1993): a difference of two estimates may be 0 by chance. The prior is one estimate for all parts, so that they
        share its draw. Without an image variance each part's draws are t-distributed.
        """
        prior = rng.chisquare(PRIOR_SEEDS, count)
        result = {}
        for part in parts:
            own = rng.chisquare(len(self.trainings) - 1, count)
            variance = self.degrees_of_freedom * self.sd(part, metric) ** 2 / (prior + own)
            on_any_images = np.maximum(variance - self.image_variance(part, metric), 0.0)
            result[part] = np.sqrt(2 * on_any_images) * rng.standard_normal(count)
        return result

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
