"""What a reviewer sees: the order of turns, pictures of the file's own values, the gaze that the run itself gives."""

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from run_folders import SMALL, write_run

from gaze.config.analysis import AnalyzeConfig, CompareConfig, ReviewConfig
from gaze.config.costs import Costs
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import Split
from gaze.errors import BusyError, ConfigError, DataError
from gaze.runs.predictions import Predictions, read_predictions, write_predictions
from gaze.runs.run import Run
from gaze.studies.opened import open_run
from gaze.studies.review.shown import Review, predicted, queue_of
from gaze.studies.review.store import Answer, answers

CPU = CompareConfig(device="cpu")
QUIET = Console(file=io.StringIO())


def reviewed(folder, **more):
    return closing(Review(ReviewConfig(run=str(folder), **{"order": "random", **more}), CPU, QUIET))


def pixels_of(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).copy()


@pytest.fixture(scope="module")
def config(composed):
    return check_config(composed(*SMALL))


@pytest.fixture(scope="module")
def folders(config, composed, tmp_path_factory):
    """Two runs on the same images, with other weights."""
    home, other = tmp_path_factory.mktemp("review"), check_config(composed(*SMALL, "seed=1"))
    classes = list(GazeDataModule(config.dataset).classes)
    return write_run(home / "a", config, classes), write_run(home / "b", other, classes)


@pytest.fixture(autouse=True)
def _fresh(folders):
    yield
    for folder in folders:
        for file in folder.glob("review.sqlite*"):
            file.unlink()


def test_each_image_comes_once_and_some_again_later():
    number = 400
    split = Split(
        torch.zeros(number, 1, 2, 2, dtype=torch.uint8), torch.arange(number) % 2, [f"{i}" for i in range(number)]
    )
    items = queue_of(split, ["a", "b"], None, ReviewConfig(order="random", repeat=0.1))
    first = [item.place for item in items if not item.repeat]
    assert sorted(first) == list(range(number)) != first
    assert sum(item.repeat for item in items) == len({item.place for item in items if item.repeat}) == 40
    turns = {(item.place, item.repeat): turn for turn, item in enumerate(items)}
    gaps = [turn - turns[place, False] for (place, repeat), turn in turns.items() if repeat]
    assert min(gaps) >= 1 and max(gaps) < 70
    assert np.median(gaps) > 10
    assert {item.truth for item in items} == {"a", "b"}
    assert 0.4 < np.mean([item.swapped for item in items]) < 0.6
    assert not any(item.repeat for item in queue_of(split, ["a", "b"], None, ReviewConfig(order="random", repeat=0)))


def test_orders_go_by_what_the_run_predicted():
    found = Predictions(
        ("a", "b"), ["x", "y", "z", "w"], None, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]),
        np.array([[0.9, 0.1], [0.45, 0.55], [0.3, 0.7], [0.4, 0.6]], np.float32),
        np.array([0.1, np.nan, 0.3, 0.2]), np.zeros(4), np.zeros(4, bool), None,
    )  # fmt: skip
    split = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), ["x", "y", "z", "w"])

    def order(name):
        return "".join(i.file for i in queue_of(split, ["a", "b"], found, ReviewConfig(order=name, repeat=0)))

    assert (order("worst"), order("uncertain")) == ("zwxy", "ywzx")
    costs = Costs(Path("costs.yaml"), {("a", "b"): 5.0, ("b", "a"): 1.0})
    costly = ReviewConfig(order="costly", repeat=0)
    assert "".join(i.file for i in queue_of(split, ["a", "b"], found, costly, costs)) == "ywzx"
    with pytest.raises(ConfigError, match="class b is missing"):
        queue_of(split, ["a", "b"], found, costly, Costs(Path("costs.yaml"), {("a", "b"): 5.0}))
    with pytest.raises(ConfigError, match="needs what mistakes cost"):
        AnalyzeConfig(review={"run": "x", "order": "costly"})
    with pytest.raises(DataError, match="is of other images"):
        queue_of(split._replace(paths=["x", "y", "z", "v"]), ["a", "b"], found, ReviewConfig())
    with pytest.raises(DataError, match=r"predictions\.csv, which is missing: take review\.order=random"):
        queue_of(split, ["a", "b"], None, ReviewConfig())


def test_the_map_is_the_runs_own_of_the_true_class(folders, config):
    one, data = open_run(folders[0], CPU), GazeDataModule(config.dataset).data.test
    with reviewed(folders[0]) as review:
        item = review.store.queue[3]
        turn = review.turn(3, "Ann")
        cam, chances = review.looked(item.place)[0]
        found = pixels_of(review.map(3, 0))
    looked = one.look(data.images, data.targets)
    np.testing.assert_allclose(cam, looked.cams[item.place], atol=1e-4)
    np.testing.assert_allclose(chances, looked.probabilities[item.place], atol=1e-4)
    assert turn["class"] == item.truth == one.classes[data.targets[item.place]]
    assert found.shape == (256, 256, 3)
    large = torch.nn.functional.interpolate(torch.from_numpy(cam)[None, None], (256, 256), mode="bilinear")[0, 0]
    assert np.corrcoef(large.numpy().ravel(), found.sum(2).ravel())[0, 1] > 0.95  # brighter where it looks


def test_a_prediction_is_hidden_until_the_answer(folders):
    with reviewed(folders[0]) as review:
        before = review.turn(0, "Ann")
        after = review.answer(Answer(reviewer="Ann", item=0, verdict="wrong", reason="artefact"))
        assert (before["prediction"], before["answer"]) == (None, None)
        assert after["answer"] == {"verdict": "wrong", "reason": "artefact", "note": "", "shapes": []}
        assert after["prediction"][0].split(" (")[0] in review.data.classes
        assert review.turn(0, "Bea")["prediction"] is None
        with pytest.raises(IndexError):
            review.turn(len(review.store.queue), "Ann")
        with pytest.raises(IndexError):
            review.map(0, 1)
        with pytest.raises(ConfigError, match="another kind"):
            review.answer(Answer(reviewer="Ann", item=0, verdict="left side"))
    with reviewed(folders[0], blind=False) as review:
        assert review.turn(1, "Ann")["prediction"]


def test_two_gazes_stand_without_names_on_sides_that_are_drawn(folders):
    with reviewed(folders[0], against=str(folders[1]), repeat=1.0) as review:
        swapped = {item.swapped: turn for turn, item in enumerate(review.store.queue)}
        for swap, turn in swapped.items():
            looked = review.looked(review.store.queue[turn].place)
            assert np.array_equal(pixels_of(review.map(turn, 0)), pixels_of(review.map(turn, 1))) is False
            assert review._arm(review.store.queue[turn], 0) == swap
            found = review.answer(Answer(reviewer="Ann", item=turn, verdict="left side"))
            assert "arm" not in found["answer"]
            assert found["answer"]["verdict"] == "left side"
            left = looked[int(swap)][1].max()
            assert f"({left:.2f})" in found["prediction"][0]
        review.answer(Answer(reviewer="Ann", item=5, verdict="unsure"))
        titles = review.store.arms
        path = review.store.path
    table = answers(path)
    assert table["verdict"].tolist() == ["better", "better", "unsure"]
    assert table["arm"].tolist() == [titles[int(swap)] for swap in swapped] + [""]
    with reviewed(folders[0], against=str(folders[1])) as review, pytest.raises(ConfigError, match="another kind"):
        review.answer(Answer(reviewer="Ann", item=0, verdict="right"))


def test_images_beyond_8_bits_are_windowed_by_their_own_values(composed, tmp_path):
    g, values = np.random.default_rng(0), {}
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "in" / part / name).mkdir(parents=True)
            for i in range(4):
                own = g.integers(1000, 40000, (20, 30)).astype(np.uint16)
                values[f"{part}/{name}/Meyer_{i}.png"] = own
                Image.fromarray(own).save(tmp_path / "in" / part / name / f"Meyer_{i}.png")
    words = [word for word in SMALL if "_images" not in word]
    own = ("dataset=folder", f"dataset.root={tmp_path / 'in'}", "dataset.name=deep", "dataset.validation=test",
           "dataset.window=[2000,30000]")  # fmt: skip
    folder = write_run(tmp_path / "run", check_config(composed(*words, *own)), ["cat", "dog"])
    with reviewed(folder) as review:
        turn, wanted = review.turn(0, "Ann"), values[review.store.queue[0].file]
        assert (turn["width"], turn["height"]) == (30, 20)  # not the network's 32x32
        assert turn["window"] == (2000, 30000)
        assert turn["range"] == (wanted.min(), wanted.max())
        found = pixels_of(review.image(0, 10_000, 20_000))
        np.testing.assert_array_equal(found, np.rint((wanted / 10_000.0 - 1).clip(0, 1) * 255))
        (tmp_path / "in" / review.store.queue[1].file).write_bytes(b"damaged since")
        assert review.turn(1, "Ann")["width"] == 32  # what the network gets of it


def test_8_bits_are_windowed_too(folders):
    with reviewed(folders[0]) as review:
        plain = pixels_of(review.image(0, 0, 255))
        narrow = pixels_of(review.image(0, 50, 150))
    np.testing.assert_array_equal(plain, review.split.images[review.store.queue[0].place, 0])
    np.testing.assert_array_equal(narrow, np.rint(((plain - 50.0) / 100 * 255).clip(0, 255)))


def test_what_is_refused(folders, config, composed, tmp_path):
    with reviewed(folders[0]), pytest.raises(BusyError), reviewed(folders[0]):
        pass
    with pytest.raises(ConfigError, match="must be another run, on the same test images"):
        reviewed(folders[0], against=str(folders[0]))
    other = check_config(composed(*SMALL, "dataset.seed=7"))
    there = write_run(tmp_path / "other", other, list(GazeDataModule(other.dataset).classes))
    with pytest.raises(ConfigError, match="on the same test images"):
        reviewed(folders[0], against=str(there))
    with pytest.raises(DataError, match="is a review of"):
        reviewed(folders[1], file=str(folders[0] / "review.sqlite"))
    (tmp_path / "b").mkdir()
    (there / "review.sqlite").symlink_to(tmp_path / "b" / "elsewhere.sqlite")
    with pytest.raises(DataError, match="a link out of its folder"):
        reviewed(there)
    with pytest.raises(DataError, match=r"predictions\.csv"):
        reviewed(folders[1], order="worst")


def test_changed_images_are_not_mixed(folders, config, tmp_path):
    with reviewed(folders[0]):
        pass
    settings = config.model_copy(update={"dataset": config.dataset.model_copy(update={"seed": 9})})
    again = write_run(tmp_path / "again", settings, list(GazeDataModule(config.dataset).classes))
    (again / "checkpoints" / "last.ckpt").write_bytes((folders[0] / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(DataError, match="of other images than those at hand"):
        reviewed(again, file=str(folders[0] / "review.sqlite"))


def test_predictions_come_back_as_the_order(folders, config):
    data = GazeDataModule(config.dataset).data.test
    number = len(data.targets)
    far = np.linspace(0, 0.2, number)
    found = Predictions(
        GazeDataModule(config.dataset).classes, data.paths, None, data.targets.numpy(), data.targets.numpy(),
        np.full((number, 4), 0.25, np.float32), far, far * 0, np.zeros(number, bool), None,
    )  # fmt: skip
    write_predictions(Run(folders[0]).predictions_file, found)
    try:
        with reviewed(folders[0], order="worst", repeat=0.0) as review:
            assert [item.place for item in review.store.queue] == list(range(number))[::-1]
    finally:
        Run(folders[0]).predictions_file.unlink()


def test_training_images_are_looked_at_for_their_order(tiny_run, tmp_path):
    arm, data = open_run(tiny_run.folder, CPU), GazeDataModule(Run(tiny_run.folder).dataset).data
    found, own = predicted(arm, data.test), read_predictions(Run(tiny_run.folder))  # as its final evaluation has them
    assert (found.classes, list(found.files)) == (own.classes, list(own.files))
    for name in ("truth", "prediction", "probabilities", "deviation", "percentile", "empty"):
        np.testing.assert_allclose(getattr(found, name), getattr(own, name), rtol=1e-3, atol=1e-5, err_msg=name)
    words = {"images": "train", "order": "worst", "file": str(tmp_path / "answers.sqlite")}
    with reviewed(tiny_run.folder, **words, repeat=0.0) as review:
        deviation = predicted(arm, data.train).deviation[[item.place for item in review.store.queue]]
        assert {item.file for item in review.store.queue} == set(data.train.paths)
        assert (np.diff(deviation[np.isfinite(deviation)]) <= 0).all()
        np.testing.assert_array_equal(
            pixels_of(review.image(0, 0, 255)), data.train.images[review.store.queue[0].place, 0]
        )
    with pytest.raises(DataError, match="of other images than those at hand"):
        reviewed(tiny_run.folder, file=words["file"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"order": "alphabet"}, "order"), ({"images": "validation"}, "images"), ({"repeat": 1.5}, "repeat"),
        ({"port": 80}, "port"),
    ],
)  # fmt: skip
def test_settings(wrong, said):
    with pytest.raises(ConfigError, match=said):
        ReviewConfig(run="x", **wrong)


def test_a_review_is_asked_for_alone():
    with pytest.raises(ConfigError, match="another question than check"):
        AnalyzeConfig(check="a", review={"run": "b"})
    with pytest.raises(ConfigError, match=r"belongs to review=RUN"):
        AnalyzeConfig(review={"order": "random"})
