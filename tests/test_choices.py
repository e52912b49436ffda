"""gaze.choices: words are known without PyTorch, code is found, and an entry of each kind that is added works."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from gaze.choices import AUGMENTATIONS, DISTANCES, GUIDANCE, METHODS, SOURCES, Augmentation, Distance, Method, Source
from gaze.config.augmentation import AugmentationConfig
from gaze.data.datasets import assemble, half_of
from gaze.errors import ConfigError
from gaze.measures import measures
from gaze.training.train import run_training

EVERY = [entry for registry in (METHODS, DISTANCES, GUIDANCE, SOURCES, AUGMENTATIONS) for entry in registry.values()]
seen = []


def brightest(features, score, *, create_graph, retain_graph):
    (gradient,) = torch.autograd.grad(score.sum(), features, create_graph=create_graph, retain_graph=retain_graph)
    return (gradient.mean((2, 3), keepdim=True) * features).amax(1).relu()


def largest(cam, reference):
    return (cam - reference).abs().amax((1, 2))


def halves(config, say):
    """One class is bright above, the other below."""

    def drawn(split, count):
        rng, targets = np.random.default_rng(len(split)), np.arange(count) % 2
        images = rng.integers(0, 100, (count, config.channels, config.image_size, config.image_size), np.uint8)
        for image, label in zip(images, targets, strict=True):
            image[:, label * config.image_size // 2 :][:, : config.image_size // 2] += 100
        return half_of(split, images, targets)

    return assemble(None, ("above", "below"), drawn("train", 16), drawn("test", 8), config)


def inverted(probability, side):
    seen.append((probability, side))
    return v2.RandomInvert(probability)


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.name)
def test_every_entry_names_code_that_is_there(entry):
    assert callable(entry.function) and entry.title


def test_one_of_each_that_is_added_trains_a_run(registries, tiny, tmp_path):
    METHODS.add(Method("brightest", "Brightest", "", f"{__name__}:brightest"))
    DISTANCES.add(Distance("largest", "largest difference", "", f"{__name__}:largest"))
    SOURCES.add(Source("halves", "bright halves", "", f"{__name__}:halves"))
    AUGMENTATIONS.add(Augmentation("invert", "a negative with probability {}", "", f"{__name__}:inverted", most=1.0))
    words = ("gaze.method=brightest", "gaze.distance=largest", "dataset.kind=halves", "+augmentation.invert=0.5")
    config = tiny(*words, "lambda=1", "gaze.start_epoch=0", "gaze.end_epoch=0", "pictures.every_n_epochs=1")
    row = run_training(config, tmp_path / "run")
    assert 0 < row["train/loss_gaze"] <= 1 and 0 < row["val/gaze_consistency_largest"] <= 1
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].count(",val/gaze_consistency_largest") == 1
    assert (
        measures()["gaze_consistency_largest"].label
        == "gaze consistency L_CAM, largest difference (lower: more consistent)"
    )
    assert (0.5, 32) in seen and config.to_dict()["augmentation"]["invert"] == 0.5


def test_an_unknown_word_is_an_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match=r"gaze.method=gradcam is unknown: .* or cam. Did you mean grad_cam\?"):
        METHODS["gradcam"]
    with pytest.raises(ValueError, match=r"gaze.distance=l2 is there already"):
        DISTANCES.add(DISTANCES["l2"])


def test_settings_of_augmentations_follow_the_registry():
    config = AugmentationConfig(name="x", blur=[0.01, 0.02], mixup=1, crop_scale=(0.5, 1))
    assert config.on("image") == {"blur": [0.01, 0.02]} and config.on("label") == {"mixup": 1.0}
    assert list(config.model_dump()) == ["name", *AUGMENTATIONS] and config.on("frame") == {"crop_scale": [0.5, 1.0]}
