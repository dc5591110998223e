"""KID and FID of two sets of one distribution, which should be 0, by the number of images (docs/adherence.md).

python -m benchmarks.set_distances [--features 512]

The features are drawn from a normal distribution, as many as a CLIP model has.
"""

from __future__ import annotations

import argparse

import numpy as np

from engine.evaluation.set_distances import fid, kid

COUNTS = (16, 64, 256, 1024, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=512)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| images | KID x 1,000 | FID |")
    print("|---|---|---|")
    for count in COUNTS:
        first, second = (rng.standard_normal((count, options.features)) for _ in range(2))
        near = kid(first, second)
        print(f"| {count:,} | {near.value:.1f} ± {near.spread:.1f} | {fid(first, second):.0f} |", flush=True)


if __name__ == "__main__":
    main()
