"""gaze.training.yardsticks on readers that were made: the yardsticks come out as made."""

import math

import numpy as np
import pytest
import torch
from readers import looked_at, write_fixations
from scipy.special import ndtr
from scipy.stats import pearsonr

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.measures import HUMAN
from gaze.training.yardsticks import centre_prior, centre_yardstick, human_figures, human_line, readers_yardstick

SIZE, GRID, SIGMA = 32, (8, 8), 0.06


def loaded(tmp_path, readers: int):
    config = DatasetConfig(image_size=SIZE, train_images=4, test_images=48, cache="off")
    split = load_dataset(config).test
    file = write_fixations(tmp_path / "f.csv", split.masks, split.paths, readers)
    given = {**config.model_dump(), "fixations": str(file), "fixation_sigma": SIGMA}
    return load_dataset(DatasetConfig(**given)).test


def by_hand(fixations, grid=GRID):
    """Density over the cells of the grid, from integrals of normal distributions."""
    found = np.zeros(grid)
    for x, y, duration in fixations:
        tall, wide = (np.diff(ndtr((np.arange(n + 1) / n - at) / SIGMA)) for n, at in zip(grid, (y, x), strict=True))
        found += duration * np.outer(tall, wide)
    return found / found.sum()


def test_one_reader_against_another_is_as_near_as_such_readers_are(tmp_path):
    """Monte Carlo of the same clusters and noise, on the same lesions, with maps and correlations made otherwise."""
    split, g = loaded(tmp_path, 2), np.random.default_rng(7)
    ill = [mask[0] for mask in split.masks.numpy() if mask.any()]
    drawn = []
    for _ in range(30):
        pairs = [[by_hand(looked_at(mask, g)) for _ in range(2)] for mask in ill]
        drawn.append(
            [
                np.mean([pearsonr(a.ravel(), b.ravel())[0] for a, b in pairs]),
                np.mean([np.minimum(a, b).sum() for a, b in pairs]),
            ]
        )
    got = dict(zip(HUMAN, readers_yardstick(split.human, GRID).nanmean(0).tolist(), strict=True))
    for name, values in zip(("cc", "sim"), np.array(drawn).T, strict=True):
        assert abs(got[name] - values.mean()) < 4 * values.std(ddof=1)
        assert values.std() < 0.02  # so that it says something
    assert got["cc"] > 0.8 and got["sauc"] > 0.7 and got["scc"] > 0.3


def test_a_prior_in_the_centre(tmp_path):
    human = loaded(tmp_path, 2).human
    side = np.exp(-(((np.arange(8) + 0.5) / 8 - 0.5) ** 2) / (2 * 0.25**2))
    prior = np.outer(side, side)
    assert np.allclose(centre_prior(GRID), prior, atol=1e-6)
    points = [np.concatenate([own.numpy() for own in human.readings[i].values()]) for i in human.places]
    wanted = np.mean([pearsonr(prior.ravel(), by_hand(own).ravel())[0] for own in points])
    got = dict(zip(HUMAN, centre_yardstick(human, GRID).nanmean(0).tolist(), strict=True))
    assert got["cc"] == pytest.approx(wanted, abs=1e-4)
    readers = dict(zip(HUMAN, readers_yardstick(human, GRID).nanmean(0).tolist(), strict=True))
    assert all(readers[name] > got[name] for name in HUMAN if name != "kl") and readers["kl"] < got["kl"]
    assert abs(got["sauc"] - 0.5) < 0.1 and got["scc"] < 0.1  # it knows no image


def test_a_reader_who_looks_as_the_others_do_agrees_wholly(tmp_path):
    human = loaded(tmp_path, 1).human
    assert readers_yardstick(human, GRID).isnan().all()  # one reader: no ceiling
    twins = [{"a": own[""], "b": own[""]} if "" in own else {k + w: v for k, v in own.items() for w in "ab"}
             for own in human.readings]  # fmt: skip
    cc, sim, kl, *_ = readers_yardstick(type(human)(human.size, twins, human.sds, {}), GRID).nanmean(0).tolist()
    assert (cc, sim, kl) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-5))


def test_figures_by_class_and_their_line(tmp_path):
    split = loaded(tmp_path, 2)
    network = torch.arange(35.0).reshape(5, 7)
    found = human_figures(split, network, ("diffuse", "healthy", "meningeal", "midline"), GRID)
    assert found.counts.tolist() == [12, 0, 12, 12]
    assert found.readers == 2
    assert found.maps.max((1, 2)).tolist() == [1, 0, 1, 1]
    diffuse = [split.human.readings[i].values() for i in range(0, 48, 4)]
    mean = np.mean([by_hand(np.concatenate([rows.numpy() for rows in own])) for own in diffuse], 0)
    assert np.allclose(found.maps[0], mean / mean.max(), atol=1e-4)
    for yardstick, got in ((centre_yardstick, found.centre), (readers_yardstick, found.others)):
        each = yardstick(split.human, GRID).numpy()  # of 36 images, three classes in turn
        assert np.allclose(got[[0, 2, 3]], [each[k::3].mean(0) for k in range(3)], atol=1e-6)
        assert np.allclose(got[4], each.mean(0), atol=1e-6) and np.isnan(got[1]).all()
    line = human_line(found, "test")
    assert line.startswith("36 test images that somebody looked at")
    assert f"CC 28.000 (centre {found.centre[4, 0]:.3f}, readers {found.others[4, 0]:.3f})" in line
    alone = human_line(found._replace(readers=1, others=np.full((5, 7), math.nan)), "validation")
    assert alone.endswith("Each image has one reader: no ceiling.") and "36 validation images" in alone
