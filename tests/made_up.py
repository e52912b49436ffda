"""Made-up run logs with the tidy columns, for the tests of the analysis."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def made_up_runs(
    study: str = "made_up",
    datasets: Sequence[str] = ("phantom",),
    models: Sequence[str] = ("level1", "level2", "level3"),
    lambdas: Sequence[float] = (0.0,),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 6,
    noise: float = 0.01,
) -> pd.DataFrame:
    """Learning curves that rise with the epoch, a gaze that spreads as they do, and less so for lambda > 0."""
    random = np.random.default_rng(0)
    rows = []
    for dataset in datasets:
        for level, model in enumerate(models, 1):
            cells = 112**2 if model == "level1" else 28**2
            for weight in lambdas:
                for seed in seeds:
                    for epoch in range(1, epochs + 1):
                        learned = 1 - np.exp(-epoch / 3)
                        kappa = (0.35 + 0.1 * level) * learned - abs(weight) / 5000 + noise * random.standard_normal()
                        spread = (0.02 + 0.01 * learned) / (1 + max(weight, -40) / 50) + noise**2 * random.random()
                        eta = np.clip(0.3 + weight / 1000 + noise * random.standard_normal(), 0, 1)
                        rows.append(
                            {
                                "study": study,
                                "dataset": dataset,
                                "model": model,
                                "lambda": float(weight),
                                "seed": seed,
                                "epoch": epoch,
                                "accuracy": 0.25 + 0.75 * kappa,
                                "kappa": kappa,
                                "gaze_consistency": spread,
                                "gaze_consistency_l2": np.sqrt(0.9 * spread / cells),
                                "gaze_eta_squared": eta,
                                "loss": 1.4 - kappa,
                                "gaze_consistency_rms": np.sqrt(spread),
                                "gaze_consistency_grid": 0.8 * spread,
                                "gaze_consistency_grid_rms": np.sqrt(0.8 * spread),
                                "gaze_empty_fraction": 0.0,
                                "gaze_entropy": 0.9,
                                "n_correct": round(320 * (0.25 + 0.75 * kappa)),
                                "run": f"{study}/{dataset}/{model}/lambda={weight:g}/seed={seed}",
                            }
                        )
    return pd.DataFrame(rows)
