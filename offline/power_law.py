"""Power laws with an offset, L(x) = (x0 / x)^exponent + offset, the form of the laws for dense retrieval (arXiv 2403.18684)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar, nnls

Values = npt.NDArray[np.float64]
_EXPONENTS = np.geomspace(0.02, 4.0, 80)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """L(x) = scale * (x / unit)^-exponent + offset, with scale and offset at least 0."""

    scale: float
    unit: float
    exponent: float
    offset: float

    def at(self, x: Values) -> Values:
        """L at each of ``x``."""
        return np.asarray(self.scale * (x / self.unit) ** -self.exponent + self.offset, np.float64)

    @property
    def x0(self) -> float:
        """Where the part that falls is 1: the A of (A / x)^exponent."""
        return float(self.unit * self.scale ** (1 / self.exponent)) if self.scale > 0 else 0.0


def fit(x: Values, y: Values) -> PowerLaw:
    """Least squares. For each exponent the best scale and offset are linear (variable projection), so no start is guessed.

    Raises:
        ValueError: fewer than three different places, which three parameters need.
    """
    if len(set(x.tolist())) < 3:
        raise ValueError(f"a power law with an offset needs at least 3 different sizes, not {len(set(x.tolist()))}")
    unit = float(np.exp(np.log(x).mean()))

    def solve(exponent: float) -> tuple[float, Values]:
        columns = np.stack([(x / unit) ** -exponent, np.ones_like(x)], axis=1)
        solution, residual = nnls(columns, y)
        return float(residual), solution

    best = int(np.argmin([solve(exponent)[0] for exponent in _EXPONENTS]))
    bounds = (_EXPONENTS[max(best - 1, 0)], _EXPONENTS[min(best + 1, len(_EXPONENTS) - 1)])
    exponent = float(minimize_scalar(lambda value: solve(value)[0], bounds=bounds, method="bounded").x)
    scale, offset = solve(exponent)[1]
    return PowerLaw(float(scale), unit, exponent, float(offset))


def r_squared(law: PowerLaw, x: Values, y: Values) -> float:
    """Share of the variance of ``y`` that the law explains; NaN where ``y`` does not vary."""
    spread = float(np.square(y - y.mean()).sum())
    return 1 - float(np.square(y - law.at(x)).sum()) / spread if spread > 0 else float("nan")
