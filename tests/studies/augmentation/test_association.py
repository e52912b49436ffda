import math
from itertools import combinations

import numpy as np
import pytest
from made_up_study import made_up_study, without_maps
from scipy import stats

from gaze.studies.augmentation import association
from gaze.studies.augmentation.association import gain_and_excess_rho
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import image_table


def literal(c: Compared) -> tuple[float, float]:
    """rho and p by the tables of relabelled studies and scipy."""
    names, found = c.runs["arm"].to_numpy(), []
    arm = (names == "arm").sum()
    for chosen in combinations(range(len(names)), arm):
        labels = np.where(np.isin(np.arange(len(names)), chosen), "arm", "base")
        table = image_table(c._replace(runs=c.runs.assign(arm=labels))).dropna()
        found.append((chosen, stats.spearmanr(table["delta_log_p"], table["excess_distance"]).statistic))
    own = dict(found)[tuple(np.flatnonzero(names == "arm"))]
    return own, float(np.mean([abs(rho) >= abs(own) - 1e-12 for _, rho in found]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rho_and_p_are_those_of_relabelled_tables_and_scipy(seed):
    c = made_up_study(seed, base=4, arm=3, images=20, dead=0.1)
    found = gain_and_excess_rho(c, "arm")
    assert (found.rho, found.p) == pytest.approx(literal(c))
    assert found.smallest_p == 1 / 35


def test_other_arms_play_no_part():
    c = made_up_study(base=4, arm=3, other=3, images=20)
    own = np.flatnonzero(np.isin(c.runs["arm"], ["base", "arm"]))
    rows = [p for p, pair in enumerate(c.pairs) if np.isin(pair, own).all()]
    alone = c._replace(
        runs=c.runs.iloc[own].reset_index(drop=True),
        pairs=np.searchsorted(own, c.pairs[rows]),
        values=c.values[:, rows],
        log_p=c.log_p[own],
    )
    assert gain_and_excess_rho(c, "arm") == gain_and_excess_rho(alone, "arm")


def test_equal_sizes_double_the_smallest_p_and_many_runs_are_drawn(monkeypatch):
    c = made_up_study(base=4, arm=4, images=20)
    assert gain_and_excess_rho(c, "arm").smallest_p == 2 / 70
    exact = gain_and_excess_rho(c, "arm")
    monkeypatch.setattr(association, "LABELLINGS", 60)
    drawn = gain_and_excess_rho(c, "arm")
    assert drawn.rho == exact.rho
    assert drawn.smallest_p == 1 / 61
    assert abs(drawn.p - exact.p) < 0.25
    assert drawn == gain_and_excess_rho(c, "arm")


def test_no_correlation_is_nan_not_a_number():
    c = made_up_study(base=4, arm=3, images=20)
    for without in (
        c._replace(log_p=np.zeros_like(c.log_p)),
        without_maps(c, [4, 5, 6]),
        made_up_study(base=4, arm=3, images=9, dead=0),
        made_up_study(base=4, arm=1, images=20),
        made_up_study(base=1, arm=3, images=20),
    ):
        assert all(map(math.isnan, gain_and_excess_rho(without, "arm")))


def coupled(seed: int, images: int = 60) -> Compared:
    """Equal arms whose runs differ in ways that many images share, in maps and scores alike: what retraining does."""
    random = np.random.default_rng(seed)
    c = made_up_study(seed, base=4, arm=4, images=images, dead=0)
    features = random.normal(size=(images, 2))
    looks = random.normal(size=(8, 3, 2)) @ features.T  # (runs, 3, images)
    b, a = c.pairs.T
    values = c.values.copy()
    values[c.columns.index("pearson")] = 1 - 0.1 * np.abs(looks[b] - looks[a]).sum(1)
    return c._replace(values=values, log_p=-np.abs(looks).sum(1))


def test_noise_that_images_share_is_not_called_an_association():
    found = [gain_and_excess_rho(coupled(seed), "arm") for seed in range(60)]
    rejected = sum(one.p <= 0.1 for one in found)
    assert stats.binomtest(rejected, len(found), 0.1, alternative="greater").pvalue > 0.001
    # an interval over images alone would have: most of these rho are far from 0 for 60 independent images
    assert np.mean([abs(one.rho) > 2 / math.sqrt(60) for one in found]) > 0.3
