"""Coverage of the known intervals of shares and of their differences, by sums over all outcomes: no simulation.

python -m benchmarks.exact           # the two tables of docs/statistics.md as Markdown
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from eval.numbers import intervals, tests

Array = np.ndarray[Any, Any]
Z = float(scipy.stats.norm.ppf(0.975))
SHARES = ((100, 0.02), (100, 0.5), (100, 0.98), (1000, 0.02), (1000, 0.5), (1000, 0.98))
PAIRS = (
    (0.02, 0.0),
    (0.02, 0.01),
    (0.1, 0.0),
    (0.1, 0.05),
)  # the share that differs at n = 100, the difference
RIGHT = 0.8  # the share of the rest that both have right, which Newcombe's interval looks at


def shares(n: int, rate: float) -> dict[str, float]:
    """Coverage of a share by Wilson, Jeffreys, Clopper and Pearson, and the mid-P test's inversion."""
    right = np.arange(n + 1)
    beta = scipy.stats.beta.ppf
    below, at = scipy.stats.binom.cdf(right, n, rate), scipy.stats.binom.pmf(right, n, rate)
    ends = np.array([(span.low, span.high) for span in (intervals.wilson(k, n) for k in right.tolist())])
    covered = {
        "Wilson": (ends[:, 0] <= rate) & (rate <= ends[:, 1]),
        "Jeffreys": ((right == 0) | (beta(0.025, right + 0.5, n - right + 0.5) <= rate))
        & ((right == n) | (rate <= beta(0.975, right + 0.5, n - right + 0.5))),
        "Clopper-Pearson": (below >= 0.025) & (1 - below + at >= 0.025),
        "mid-P": (below - at / 2 >= 0.025) & (1 - below + at / 2 >= 0.025),
    }
    return {name: float(at[found].sum()) for name, found in covered.items()}


def _tango(wins: int, losses: int, n: int) -> tuple[float, float]:
    low, high = tests.proportions(wins, losses, n).ends
    assert low is not None
    assert high is not None
    return low, high


def _normal(wins: float, losses: float, n: float) -> tuple[float, float]:
    difference = (wins - losses) / n
    half = Z * math.sqrt(max((wins + losses) / n - difference**2, 0.0) / n)
    return difference - half, difference + half


def _newcombe(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Square-and-add of two Wilson intervals with the correlation of the two (Newcombe 1998, method 8 by phi)."""
    both = round(RIGHT * (n - wins - losses))
    none = n - both - wins - losses
    one, two = both + wins, both + losses
    a, b = intervals.wilson(one, n), intervals.wilson(two, n)
    margins = one * (n - one) * two * (n - two)
    phi = (both * none - wins * losses) / math.sqrt(margins) if margins else 0.0

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0))

    difference = (wins - losses) / n
    low = difference - reach(one / n - a.low, b.high - two / n)
    return low, difference + reach(a.high - one / n, two / n - b.low)


METHODS: dict[str, Callable[[int, int, int], tuple[float, float]]] = {
    "Tango": _tango,
    "Wald": _normal,
    "Agresti-Min": lambda wins, losses, n: _normal(wins + 0.5, losses + 0.5, n + 2),
    "Bonett-Price": lambda wins, losses, n: _normal(wins + 1, losses + 1, n + 2),
    "Newcombe": _newcombe,
}


def paired(n: int, differ: float, gain: float) -> dict[str, float]:
    """Coverage of the difference of two shares over the same examples."""
    parts = [(differ + gain) / 2, (differ - gain) / 2, 1 - differ]
    found = dict.fromkeys(METHODS, 0.0)
    for wins in range(n + 1):
        for losses in range(n + 1 - wins):
            chance = float(scipy.stats.multinomial.pmf([wins, losses, n - wins - losses], n, parts))
            if chance < 1e-9:
                continue
            for name, method in METHODS.items():
                low, high = method(wins, losses, n)
                found[name] += chance * (low - 1e-12 <= gain <= high + 1e-12)
    return found


def table() -> str:
    """Both tables as Markdown, in percent."""
    parts = []
    rows = {f"n = {n}, rate {rate}": shares(n, rate) for n, rate in SHARES}
    pairs = {
        f"n = 100, {differ:.0%} differ, difference {gain}": paired(100, differ, gain)
        for differ, gain in PAIRS
    }
    for title, found in (("a share", rows), ("a difference of two shares", pairs)):
        heads = next(iter(found.values()))
        lines = [f"| {title} | {' | '.join(heads)} |", "|:--" + "|--:" * len(heads) + "|"]
        lines += [
            f"| {name} | {' | '.join(f'{100 * rate:.1f}' for rate in row.values())} |"
            for name, row in found.items()
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(table())
