"""gaze.metrics.saliency against literal loops, scikit-learn, and values that others published."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, norm, pearsonr, zscore
from sklearn.metrics import roc_auc_score
from torchmetrics import MetricCollection

from gaze.cam.pool import pool_to_grid
from gaze.measures import HUMAN
from gaze.metrics import saliency as s
from gaze.metrics.saliency import HumanGaze, HumanGazeByClass, auc, auc_judd, cc, kl, nss, sauc, scc, sim

N, H, W = 12, 5, 7


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    g = np.random.default_rng(0)
    cam = np.round(g.random((N, H, W)), 1)  # with ties
    fixations = g.poisson(0.4, (N, H, W)).astype(float)
    fixations[:, 0, 0] = 1
    return {"cam": cam, "human": g.random((N, H, W)), "fixations": fixations, "others": g.random((N, H, W)),
            "elsewhere": g.poisson(0.5, (N, H, W)) + 0.0}  # fmt: skip


def tensors(maps, *names):
    return (torch.from_numpy(maps[name]) for name in names)


def auc_by_hand(cam, positive, negative):
    """scikit-learn's, each cell once as positive and once as negative, by its weight."""
    truth = np.r_[np.ones(cam.size), np.zeros(cam.size)]
    return roc_auc_score(truth, np.r_[cam, cam], sample_weight=np.r_[positive, negative])


def by_hand(maps, i):
    cam, human, fixations, others, elsewhere = (maps[name][i].ravel() for name in maps)
    p, q = cam / cam.sum(), human / human.sum()
    at = [zscore(cam)[j] for j in range(cam.size) for _ in range(int(fixations[j]))]
    return {
        "cc": pearsonr(cam, human)[0], "sim": sum(min(a, b) for a, b in zip(p, q, strict=True)),
        "kl": entropy(q, p + 2.0**-52), "nss": np.mean(at), "auc": auc_by_hand(cam, fixations, fixations == 0),
        "scc": pearsonr(cam, human)[0] - pearsonr(cam, others)[0], "sauc": auc_by_hand(cam, fixations, elsewhere),
    }  # fmt: skip


def all_of(maps) -> dict[str, torch.Tensor]:
    cam, human, fixations, others, elsewhere = tensors(maps, *maps)
    return {
        "cc": cc(cam, human), "sim": sim(cam, human), "kl": kl(cam, human), "nss": nss(cam, fixations),
        "auc": auc_judd(cam, fixations), "scc": scc(cam, human, others), "sauc": sauc(cam, fixations, elsewhere),
    }  # fmt: skip


@pytest.mark.parametrize("name", HUMAN)
def test_measures_equal_scipy_scikit_learn_and_loops(maps, name):
    got = all_of(maps)[name]
    # scipy normalises p + eps once more, and a cell of 0 makes that visible at 1e-15
    assert np.allclose(got, [by_hand(maps, i)[name] for i in range(N)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", HUMAN)
def test_no_measure_depends_on_the_scale(maps, name):
    scaled = {key: 3.0 * value for key, value in maps.items()}
    assert torch.allclose(all_of(scaled)[name], all_of(maps)[name], atol=1e-12)


# The model and the fixations of pysaliency's tests (tests/test_saliency_map_models.py, TestAUC.test_gauss), with the
# values that stand there.
ROW, COLUMN = np.mgrid[:40, :40]
GAUSS = torch.from_numpy(np.exp(-0.5 * ((COLUMN - 20) ** 2 + (ROW - 20) ** 2) / np.sqrt(3200)))[None]
FIRST = [(0, 10), (1, 11), (2, 12), (2, 12), (2, 12)]  # (x, y)
SECOND = [(1, 21), (5, 25), (3, 33)]
UNIFORM = [0.099375, 0.158125, 0.241875, 0.241875, 0.241875, 0.291875, 0.509375, 0.138125]
SHUFFLED = [0.0, 0.33333333, 0.33333333, 0.33333333, 0.33333333, 1.0, 1.0, 0.2]


def counted(points):
    found = torch.zeros(1, 40, 40, dtype=torch.float64)
    for x, y in points:
        found[0, y, x] += 1
    return found


def test_published_values_of_auc_and_of_the_shuffled_one():
    for i, point in enumerate([*FIRST, *SECOND]):
        others = SECOND if i < len(FIRST) else FIRST
        assert auc(GAUSS, counted([point]), torch.ones_like(GAUSS)).item() == pytest.approx(UNIFORM[i], rel=1e-6)
        assert sauc(GAUSS, counted([point]), counted(others)).item() == pytest.approx(SHUFFLED[i], rel=1e-6)


def test_kl_and_sim_of_gaussians_as_in_textbooks():
    """``ln(s/r) + (r^2 + d^2) / (2 s^2) - 1/2`` an axis; two alike share ``2 Phi(-d / 2s)``."""
    r, s, d = 3.0, 4.0, 2.0

    def gauss(sd, x):
        return torch.from_numpy(np.exp(-((COLUMN - x) ** 2 + (ROW - 20) ** 2) / (2 * sd**2)))[None]

    wanted = 2 * (math.log(s / r) + r**2 / (2 * s**2) - 0.5) + d**2 / (2 * s**2)
    assert kl(gauss(s, 20 + d), gauss(r, 20)).item() == pytest.approx(wanted, rel=2e-3)  # tails beyond the border
    assert sim(gauss(s, 20), gauss(s, 20 + d)).item() == pytest.approx(2 * norm.cdf(-d / (2 * s)), rel=2e-3)
    assert kl(GAUSS, GAUSS).item() == pytest.approx(0, abs=1e-12)


def test_what_agrees_wholly_and_what_is_at_chance():
    human = GAUSS
    assert cc(human, human).item() == pytest.approx(1)
    assert cc(1 - human, human).item() == pytest.approx(-1)
    assert sim(human, human).item() == pytest.approx(1)
    assert scc(human, human, human).item() == 0
    same = counted(FIRST)
    assert sauc(GAUSS, same, same).item() == pytest.approx(0.5)  # the habit of looking alone


FLAT, EMPTY = torch.full((1, 4, 4), 0.1, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64)
SOME = torch.arange(16, dtype=torch.float64).reshape(1, 4, 4)
NAN = math.nan
EDGES = {  # cc, sim, kl, nss, auc, scc, sauc
    "flat map": (FLAT, SOME, SOME, (NAN, pytest.approx(11 / 15), ..., NAN, 0.5, NAN, 0.5)),
    "empty map": (EMPTY, SOME, SOME, (NAN, NAN, NAN, NAN, 0.5, NAN, 0.5)),
    "nobody looked": (SOME, EMPTY, EMPTY, (NAN,) * 7),
}


@pytest.mark.parametrize("case", EDGES)
def test_edges(case):
    cam, human, fixations, wanted = EDGES[case]
    got = [cc(cam, human), sim(cam, human), kl(cam, human), nss(cam, fixations), auc_judd(cam, fixations),
           scc(cam, human, SOME), sauc(cam, fixations, SOME)]  # fmt: skip
    for name, value, want in zip(HUMAN, got, wanted, strict=True):
        if want is ...:
            assert value.isfinite().all()
        else:
            assert value.item() == want or (want != want and value.isnan().all()), (name, value)


def test_every_cell_looked_at_leaves_no_negative():
    assert auc_judd(SOME, FLAT).isnan().all()


def test_the_metric_is_the_mean_over_correct_images_that_were_looked_at():
    g, k = torch.Generator().manual_seed(0), 3
    cam, human = torch.rand(40, 4, 4, generator=g), torch.rand(40, 4, 8, 8, generator=g)
    human[:, 1] = (human[:, 1] > 0.9).float()
    target = torch.randint(0, k, (40,), generator=g)
    preds = torch.where(torch.rand(40, generator=g) < 0.7, target, (target + 1) % k)
    cam[3], human[4:7], human[7, 1], target[8], preds[8] = 0, 0, 0, -1, -1
    target[3:8] = preds[3:8]
    parts = {name: HumanGaze(k, name) for name in HUMAN}
    parts["by_class"] = HumanGazeByClass(k)
    metric = MetricCollection(parts, compute_groups=[list(parts)])
    for rows in (slice(0, 11), slice(11, 11), slice(11, 40)):
        metric.update(cam=cam[rows], preds=preds[rows], target=target[rows], human=human[rows])
    grids = {name: pool_to_grid(human[:, i], 4).double().numpy() for i, name in enumerate(
        ("human", "fixations", "others", "elsewhere"))}  # fmt: skip
    wide, got = cam.double(), metric.compute()
    for name, column in zip(HUMAN, range(7), strict=True):
        found, by_class = [], {c: [] for c in range(k)}
        for i in range(40):
            if preds[i] == target[i] >= 0 and cam[i].any() and grids["human"][i].any():
                own = all_of({"cam": wide[i : i + 1].numpy(), **{n: v[i : i + 1] for n, v in grids.items()}})[name]
                if not own.isnan():
                    found.append(own.item())
                    by_class[int(target[i])].append(own.item())
        assert got[name].item() == pytest.approx(np.mean(found), abs=1e-6)
        means = got["by_class"][:, column]
        wanted = [np.mean(v) for v in (*by_class.values(), found)]
        assert means.tolist() == pytest.approx(wanted, abs=1e-6)
    metric.reset()
    assert all(value.isnan().all() for value in metric.compute().values())


@pytest.mark.parametrize("human", [torch.rand(2, 2, 4, 4), torch.rand(3, 4, 4, 4), torch.rand(2, 4, 4)])
def test_maps_of_people_that_do_not_fit_are_refused(human):
    with pytest.raises(ValueError, match=r"human must be \(B, 4, S, T\) of the 2 maps"):
        HumanGaze(2, "cc").update(torch.rand(2, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 1]), human)


@pytest.mark.parametrize("name", ["cc", "sim", "kl"])
def test_what_is_differentiable_passes_gradcheck(name):
    g = torch.Generator().manual_seed(0)
    cam = torch.rand(2, 3, 4, dtype=torch.float64, generator=g).requires_grad_()
    human = torch.rand(2, 3, 4, dtype=torch.float64, generator=g)
    assert torch.autograd.gradcheck(lambda own: getattr(s, name)(own, human), (cam,))
