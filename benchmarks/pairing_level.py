"""How often do the tests of Table 2 say "related" when nothing is, and when something is?

    python benchmarks/pairing_level.py            a quarter of a minute

Six seeds of twenty epochs each; kappa and L_CAM are normal noise around a curve that all seeds share, or around none.
pairing: gaze.statistics.pairing.pairing_test gives p <= 0.05. mean r not 0: the 95 % interval of the mean r (Fisher z,
over seeds) leaves 0 out, which this project called clear until November 2026.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from gaze.statistics.intervals import fisher_interval
from gaze.statistics.pairing import pairing_test

SEEDS, EPOCHS = 6, 20
# name: height of the shared curve in SD of the noise, r of the two noises, memory (AR(1)) of each
CASES = {
    "no curve, independent noise": (0.0, 0.0, 0.0),
    "shared curve, independent noise": (3.0, 0.0, 0.0),
    "shared curve, noise with a memory": (3.0, 0.0, 0.7),
    "no curve, r = -0.6": (0.0, -0.6, 0.0),
    "shared curve, r = -0.6": (3.0, -0.6, 0.0),
    "shared curve, memory, r = -0.6": (3.0, -0.6, 0.7),
}


class Shares(NamedTuple):
    """Of simulated studies: rejected by the pairing test; with a mean r whose interval leaves out 0."""

    rejected: float
    mean_not_zero: float


def study(case: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Kappa and L_CAM (SEEDS, EPOCHS) of one simulated study."""
    height, r, memory = CASES[case]
    noise = random.standard_normal((2, SEEDS, EPOCHS))
    noise[1] = r * noise[0] + np.sqrt(1 - r**2) * noise[1]
    for t in range(1, EPOCHS):
        noise[..., t] = memory * noise[..., t - 1] + np.sqrt(1 - memory**2) * noise[..., t]
    curve = height * (1 - np.exp(-np.arange(EPOCHS) / 5))
    return noise[0] + curve, noise[1] + curve


def simulate(case: str, studies: int, seed: int) -> Shares:
    random, counts = np.random.default_rng(seed), np.zeros(2)
    for _ in range(studies):
        x, y = study(case, random)
        r = np.corrcoef(x, y)[:SEEDS, SEEDS:]
        low, high = fisher_interval(np.diag(r))
        counts += pairing_test(r).p <= 0.05, low > 0 or high < 0
    return Shares(*(counts / studies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=5000)
    studies = parser.parse_args().studies
    print(f"{studies} studies a row; share rejected [95 % binomial interval]")
    for number, case in enumerate(CASES):
        shares = simulate(case, studies, number)
        texts = []
        for share in shares:
            low, high = binomtest(round(share * studies), studies).proportion_ci()
            texts.append(f"{share:.3f} [{low:.3f}, {high:.3f}]")
        print(f"{case:36s} pairing {texts[0]}   mean r not 0 {texts[1]}")


if __name__ == "__main__":
    main()
