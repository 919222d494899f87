"""Few-shot on stored features against a loop that forwards every episode anew, same episodes, in one run.

    OMP_NUM_THREADS=1 python benchmarks/fewshot.py [--arch resnet18-c16] [--size 32]

The loop is that of ssl-transfer (600 episodes, prototypes) and AugSelf (2,000 tasks, liblinear): every episode
forwards its support and query images and is fitted by itself. Times are CPU seconds; the loop is timed on a part of
the episodes and scaled. Ours includes the forward of every image of the pool once.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from eval import protocols
from eval.protocols.episodes import accuracies, draw
from mast.model import build_backbone


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet18-c16")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--part", type=int, default=30, help="episodes of the loop that are timed")
    args = parser.parse_args()
    backbone = build_backbone(args.arch, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(20), 50)
    centres = torch.randn(20, 3, args.size, args.size, generator=generator)
    images = centres[labels] + 2 * torch.randn(1000, 3, args.size, args.size, generator=generator)
    cases = (("prototype", 600, 5, 15, "ssl-transfer"), ("logistic", 2000, 1, 16, "AugSelf, 1 shot"))
    for head, episodes, shots, queries, peer in (*cases, ("logistic", 2000, 5, 16, "AugSelf, 5 shots")):
        chosen = draw(labels, way=5, shots=shots, queries=queries, num_episodes=episodes, seed=0)
        start = time.process_time()
        with torch.inference_mode():
            features = torch.cat([backbone.features(batch) for batch in images.split(100)]).numpy()
        forward = time.process_time() - start
        ours = accuracies(features, chosen, protocols.get("fewshot").override({"head": head}).settings)
        total = time.process_time() - start

        start = time.process_time()
        theirs = []
        for support, query in zip(chosen.support[: args.part], chosen.query[: args.part], strict=True):
            with torch.inference_mode():
                rows = np.concatenate([support.ravel(), query.ravel()])
                found = backbone.features(images[rows])
            s, q = found[: support.size], found[support.size :]
            truth, y = np.repeat(np.arange(5), queries), np.repeat(np.arange(5), shots)
            if head == "prototype":
                distance = ((q[:, None] - s.view(5, shots, -1).mean(1)[None]) ** 2).sum(2)
                predicted = distance.argmin(1).numpy()
            else:
                model = OneVsRestClassifier(LogisticRegression(solver="liblinear"))
                predicted = model.fit(s.numpy(), y).predict(q.numpy())
            theirs.append(float((predicted == truth).mean()))
        loop = (time.process_time() - start) * episodes / args.part
        gap = abs(float(np.mean(theirs)) - float(ours[: args.part].mean()))
        print(
            f"{peer}: loop {loop:.1f} s, ours {total:.2f} s ({forward:.2f} s forward): {loop / total:.0f} times"
        )
        print(
            f"  mean accuracy {ours.mean():.4f}; on the same {args.part} episodes the two differ by {gap:.5f}"
        )
        start = time.process_time()
        accuracies(features, chosen, protocols.get("fewshot").override({"head": head}).settings)
        print(f"  a second protocol on the stored features: {time.process_time() - start:.2f} s", flush=True)


if __name__ == "__main__":
    main()
