"""The certified grid against scikit-learn's fits, on the same features in one run.

    OMP_NUM_THREADS=1 python benchmarks/linear.py [--examples 2000] [--dim 512] [--classes 20] [--features FILE.npz]

Rows: ours, all penalties together; scikit-learn cold, each penalty at the loosest tol that meets the same criterion;
scikit-learn warm from penalty to penalty, likewise; ssl-transfer's loop (100 iterations, warm), whose objectives are
compared with ours, with the stopping rules of scikit-learn in 2021 and with today's, under which it stops at once at
weak penalties. ``--loops-only`` leaves scikit-learn's converged fits out. Times are CPU seconds, so that a busy
machine changes little; ratios are of one run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from made_up import features as made_up
from sklearn.linear_model import LogisticRegression

from eval import protocols
from eval.protocols import Labelled
from eval.protocols.linear import _Path
from eval.protocols.solver import gap, solve

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--signal", type=float, default=1.0)
    parser.add_argument("--features", help="an npz file with xtrain (N, D) and ytrain (N,)")
    parser.add_argument("--criterion", type=float, default=1e-3)
    parser.add_argument("--loops-only", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.features:
        data = np.load(args.features)
        x, y = data["xtrain"], data["ytrain"]
    else:
        x, y = made_up(args.examples, args.dim, args.classes, signal=args.signal)
    target = np.eye(int(y.max()) + 1)[y]
    grid = np.logspace(-6, 5, 45)
    print(f"{x.shape[0]} x {x.shape[1]}, {target.shape[1]} classes, criterion {args.criterion:g}", flush=True)

    ours, found = timed(lambda: solve(x, target, grid, tolerance=args.criterion))
    certified = found.gap <= args.criterion
    print(f"ours, all 45: {ours:.2f} s, certified {certified.sum()}, {found.products} products", flush=True)
    part, _ = timed(lambda: solve(x, target, grid[certified], tolerance=args.criterion))
    print(f"ours, the certified {certified.sum()} alone: {part:.2f} s", flush=True)

    wide = x.astype(np.float64)
    for warm in () if args.loops_only else (False, True):
        total, met = 0.0, 0
        model = LogisticRegression(warm_start=warm, max_iter=100_000)
        for penalty in grid[certified][::-1]:  # from strong to weak: warm starts are then close
            for tol in TOLERANCES:
                fresh = LogisticRegression(max_iter=100_000) if not warm else model
                fresh.set_params(C=1 / penalty, tol=tol)
                seconds, _ = timed(lambda fresh=fresh: fresh.fit(wide, y))
                reached = gap(x, target, fresh.coef_.T, fresh.intercept_, penalty, "softmax")
                if reached <= args.criterion:
                    break
            # Only the fit that meets the criterion counts when cold; warm, all steps towards it count.
            total += seconds
            met += reached <= args.criterion
        name = "warm" if warm else "cold"
        print(f"scikit-learn {name}: {total:.2f} s, met {met}: {total / part:.1f} times ours", flush=True)

    def objective(weights: Any, bias: Any, penalty: float) -> float:
        logits = wide @ weights + bias
        logits -= logits.max(1, keepdims=True)
        loss = (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).sum()
        return float(loss + penalty / 2 * (weights**2).sum())

    part_of = Labelled(x, y, target.shape[1])
    path = _Path(protocols.get("linear-ericsson2021").settings)
    model = LogisticRegression(warm_start=True)

    def today(penalty: float) -> tuple[Any, Any]:
        model.set_params(C=1 / penalty).fit(x, y)
        return model.coef_.T, model.intercept_

    loops = {
        "as in 2021": lambda penalty: path.fit(x, part_of, penalty),
        "with this scikit-learn": today,
    }
    for name, fit in loops.items():
        seconds, ratios = 0.0, []
        for index, penalty in enumerate(grid):
            spent, (weights, bias) = timed(lambda fit=fit, penalty=penalty: fit(penalty))
            seconds += spent
            ratios.append(objective(weights, bias, penalty) / found.objective[index])
        print(f"ssl-transfer's loop {name}: {seconds:.2f} s: {seconds / ours:.1f} times ours")
        print(
            f"  its objective over ours: at least {min(ratios):.5f}, lower at {sum(r < 1 for r in ratios)} of"
            f" 45, more than 1% above at {sum(r > 1.01 for r in ratios)}, at most {max(ratios):.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
