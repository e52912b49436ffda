"""gaze.data.human: fixations and maps of attention, what becomes of them, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from readers import write_fixations
from scipy.stats import norm

from gaze.config.data import DatasetConfig
from gaze.data.audit import Audit
from gaze.data.datamodule import GazeDataModule, SplitDataset
from gaze.data.datasets import ImageData, Split, load_dataset
from gaze.data.human import read_fixations, with_human
from gaze.data.sources.phantom import make_phantom
from gaze.errors import ConfigError, DataError

SIZE = 32
PATHS = ["train/a/1.png", "train/a/2.png", "train/b/3.dcm"]
TEST = ["test/a/1.png", "test/b/9.png"]
HEAD = "file_name,x,y,duration,reader,t\n"


def made(private: bool = False) -> ImageData:
    """Images of 200 x 100 pixels, before they were resized."""

    def split(paths):
        targets = torch.arange(len(paths)) % 2
        images = torch.zeros(len(paths), 1, SIZE, SIZE, dtype=torch.uint8)
        return Split(images, targets, paths, sizes=[(200, 100)] * len(paths))

    audit = Audit("made", None, {}, {}, (200, 200), (100, 100), {}, {})
    return ImageData(("a", "b"), split(PATHS), split(TEST), audit, private=private)


def looked(tmp_path, rows: str, private: bool = False, **settings) -> ImageData:
    file = tmp_path / "fixations.csv"
    file.write_text(HEAD + rows)
    config = DatasetConfig(kind="folder", name="made", root="/x", fixations=str(file), **settings)
    return with_human(made(private), config, read_fixations(config))


def test_a_map_is_the_sum_of_duration_times_gaussian(tmp_path):
    data = looked(tmp_path, "train/a/1.png,50,25,300,ann,0\ntrain/a/1.png,150.5,80,100,bob,1\n", fixation_sigma=0.05)
    density, counts = data.train.human.own(0)
    edges, wanted, hits = np.arange(SIZE + 1) / SIZE, np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for x, y, duration in ((50 / 200, 25 / 100, 300), (150.5 / 200, 80 / 100, 100)):
        for row in range(SIZE):
            for column in range(SIZE):
                tall = norm.cdf(edges[row + 1], y, 0.1) - norm.cdf(edges[row], y, 0.1)  # 10 pixels both ways
                wide = norm.cdf(edges[column + 1], x, 0.05) - norm.cdf(edges[column], x, 0.05)
                wanted[row, column] += duration * tall * wide
        hits[int(y * SIZE), int(x * SIZE)] += 1
    assert np.allclose(density, wanted / wanted.sum(), atol=1e-7)
    assert np.array_equal(counts, hits)
    assert sorted(data.train.human.readings[0]) == ["ann", "bob"]
    assert data.test.human is None
    assert data.audit.warnings == []


def test_a_batch_holds_what_was_looked_at_in_the_others(tmp_path):
    rows = "train/a/1.png,50,25,300,ann,0\ntrain/a/2.png,100,50,100,ann,1\ntrain/b/3.dcm,180,90,10,ann,1\n"
    human = looked(tmp_path, rows).train.human
    batch = human.batch([1, 0])
    assert batch.shape == (2, 4, SIZE, SIZE)
    assert torch.allclose(batch[0, 2:], human.own(0) + human.own(2), atol=1e-6)
    assert torch.equal(batch[:, 0].sum((1, 2)).round(decimals=5), torch.ones(2))
    assert human.batch([]).shape == (0, 4, SIZE, SIZE)
    one = looked(tmp_path, "train/a/1.png,50,25,300,ann,0\n").train.human
    assert one.places == [0]
    assert not one.batch([0])[0, 2:].any()  # there are no others
    assert not one.own(1).any()
    assert one.masks([0, 1]).amax((1, 2, 3)).tolist() == [1, 0]


def test_images_are_found_by_path_stem_and_name(tmp_path):
    data = looked(tmp_path, "train/a/2,1,1,1,,0\n3,1,1,1,,0\n9.png,1,1,1,,0\n1,1,1,1,,0\n")
    assert [name for name, own in zip(PATHS, data.train.human.readings, strict=True) if own] == PATHS[1:]
    assert data.test.human.places == [1]
    assert data.audit.warnings == ["fixations left out: 1 of 4 are of no image of this set (1)"]  # two are called so


def test_what_is_left_out_is_one_line(tmp_path):
    rows = "train/a/1.png,50,25,300,,0\ntrain/a/1.png,-1,5,1,,0\ntrain/a/2.png,201,5,1,,0\nno.png,1,1,1,,0\n"
    wanted = (
        "fixations left out: 2 of 4 lie outside their image (train/a/1.png, train/a/2.png), "
        "1 of 4 are of no image of this set (no.png)"
    )
    assert looked(tmp_path, rows).audit.warnings == [wanted]
    assert looked(tmp_path, rows, private=True).audit.warnings == [
        "fixations left out: 2 of 4 lie outside their image, 1 of 4 are of no image of this set"
    ]


def test_shares_of_the_sides(tmp_path):
    data = looked(tmp_path, "train/a/1.png,0.25,0.25,300,,0\ntrain/a/1.png,1.5,0,1,,0\n", fixation_unit="relative")
    assert data.train.human.readings[0][""].tolist() == [[0.25, 0.25, 300]]
    assert len(data.audit.warnings) == 1


BAD = {
    "train/a/1.png,x,1,1,,0\n": r"fixations.csv, row 1: x=x must be a number",
    "train/a/1.png,1,1,1,,0\ntrain/a/1.png,1,nan,1,,0\n": r"row 2: y=nan must be a number",
    "train/a/1.png,1,,1,,0\n": r"row 1: y= must be a number",
    "train/a/1.png,1,1,-3,,0\n": r"row 1: a duration of -3 must be 0 or more",
    "no.png,1,1,3,,0\n": r"csv: nobody looked at an image of made: 1 of 1 are of no image of this set \(no.png\)",
    "train/a/1.png,1,1,0,,0\n": r"nobody looked at an image of made\. Its rows name images",
    "": r"nobody looked at an image of made\.",
    "train/a/1.png,1\n": r"row 1: 2 cells under 6 names",
}  # fmt: skip


@pytest.mark.parametrize("rows", BAD)
def test_bad_rows(tmp_path, rows):
    with pytest.raises(DataError, match=BAD[rows]):
        looked(tmp_path, rows)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"no.csv cannot be read \(dataset.fixations\): No such file"):
        read_fixations(DatasetConfig(fixations=str(tmp_path / "no.csv")))
    file = tmp_path / "other.csv"
    file.write_text("DICOM_ID,X\n1,2\n")
    with pytest.raises(DataError, match=r"has no column X_ORIGINAL, Y_ORIGINAL, FPOGD; it has: DICOM_ID, X\. data"):
        read_fixations(DatasetConfig(fixations=str(file), fixation_layout="egd-cxr"))
    with pytest.raises(ConfigError, match=r"fixation_unit=relative is of dataset.fixation_layout=gaze"):
        DatasetConfig(fixation_layout="reflacx", fixation_unit="relative")
    with pytest.raises(ConfigError, match=r"attention_dir=b has maps .* leave one out"):
        DatasetConfig(fixations="a", attention_dir="b")


def test_layout_of_egd_cxr(tmp_path):
    file = tmp_path / "fixations.csv"
    file.write_text(
        "DICOM_ID,CNT,FPOGX,FPOGY,FPOGS,FPOGD,FPOGV,X_ORIGINAL,Y_ORIGINAL\n02aa-bde0,1,.5,.5,0,0.25,1,40,30\n"
    )
    (one,) = read_fixations(DatasetConfig(fixations=str(file), fixation_layout="egd-cxr"))
    assert one == ("02aa-bde0", "", 40, 30, 250)


def test_layout_of_reflacx(tmp_path):
    file = tmp_path / "metadata_phase_1.csv"
    file.write_text(
        "id,split,eye_tracking_data_discarded,image,dicom_id,subject_id\n"
        "P101R1,train,False,p/a.dcm,aa-1,7\nP102R1,train,False,p/a.dcm,aa-1,7\nP103R1,train,True,p/a.dcm,aa-1,7\n"
    )
    head = "timestamp_start_fixation,timestamp_end_fixation,x_position,y_position,pupil_area_normalized\n"
    for name, row in (("P101R1", "1.5,1.75,10,20,1\n"), ("P102R1", "0,1,11,21,1\n3,2.5,11,21,1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fixations.csv").write_text(head + row)
    config = DatasetConfig(fixations=str(file), fixation_layout="reflacx")
    with pytest.raises(DataError, match=r"P102R1/fixations.csv, row 2: a duration of -0.5"):
        read_fixations(config)
    (tmp_path / "P102R1" / "fixations.csv").write_text(head + "0,1,11,21,1\n")
    assert read_fixations(config) == [("aa-1", "P101R1", 10, 20, 250), ("aa-1", "P102R1", 11, 21, 1000)]
    file.write_text("id,dicom_id,eye_tracking_data_discarded\n../x,a,False\n")
    with pytest.raises(DataError, match=r"id=\.\./x must be the name of a folder beside it"):
        read_fixations(config)


def attended(tmp_path) -> ImageData:
    config = DatasetConfig(kind="folder", name="made", root=str(tmp_path), attention_dir="maps")
    return with_human(made(), config, [])


def test_maps_of_attention(tmp_path):
    folder = tmp_path / "maps/train/a"
    folder.mkdir(parents=True)
    given = np.random.default_rng(0).random((64, 64))
    np.save(folder / "1.npy", given)
    Image.fromarray((given * 255).astype(np.uint8)).save(folder / "2.png")
    human = attended(tmp_path).train.human
    wanted = given.reshape(SIZE, 2, SIZE, 2).mean((1, 3))
    assert np.allclose(human.own(0)[0], wanted / wanted.sum(), atol=1e-7)
    assert np.allclose(human.own(1)[0], wanted / wanted.sum(), atol=2e-5)
    assert human.places == [0, 1]
    assert not human.own(0)[1].any()  # no fixations
    assert human.readings == [{}, {}, {}]


@pytest.mark.parametrize(
    "values", [np.array([{}]), -np.ones((2, 2)), np.full((2, 2), np.nan), np.ones(4), "text", "no png"]
)
def test_maps_that_are_none(tmp_path, values):
    folder = tmp_path / "maps/train/a"
    folder.mkdir(parents=True)
    if isinstance(values, str):
        (folder / ("1.npy" if values == "text" else "1.png")).write_text(values)
    else:
        np.save(folder / "1.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=r"maps/train/a/1.(npy|png) is no map of attention"):
        attended(tmp_path)


def test_no_map_at_all(tmp_path):
    with pytest.raises(DataError, match=r"attention_dir=maps: .*maps is no folder\. Maps stand there"):
        attended(tmp_path)
    (tmp_path / "maps").mkdir()
    with pytest.raises(DataError, match=r"attention_dir=maps: nobody looked at an image of made\. Maps stand there"):
        attended(tmp_path)


def test_the_phantom_with_readers_and_its_batches(tmp_path):
    drawn = make_phantom(16, SIZE, split="test")
    file = write_fixations(tmp_path / "f.csv", drawn.masks, [f"test/{i:05d}" for i in range(16)])
    config = DatasetConfig(image_size=SIZE, train_images=8, test_images=16, fixations=str(file), cache="off")
    data = load_dataset(config)
    ill = [i for i in range(16) if drawn.masks[i].any()]
    assert data.test.human.places == ill
    batch = SplitDataset(data.test).__getitems__([0, 1])
    assert torch.equal(batch.human, data.test.human.batch([0, 1]))
    assert SplitDataset(data.train).__getitems__([0]).human is None
    module = GazeDataModule(config, data=data)
    assert next(iter(module.val_dataloader())).human.shape == (16, 4, SIZE, SIZE)


def test_training_by_attention_has_densities_in_place_of_masks(tmp_path):
    drawn = make_phantom(40, SIZE)
    file = write_fixations(tmp_path / "f.csv", drawn.masks, [f"train/{i:05d}" for i in range(40)])
    config = DatasetConfig(image_size=SIZE, train_images=40, test_images=8, fixations=str(file), cache="off",
                           annotated=0.5)  # fmt: skip
    module = GazeDataModule(config, attention=True, seed=1)
    assert module.annotated.sum() == 15  # half of ten ill ones, three classes
    batch = next(iter(module.train_dataloader()))
    assert batch.human is None
    shown = batch.mask.amax((1, 2, 3))
    assert torch.equal(shown > 0, module.annotated[batch.place])
    place = int(batch.place[shown > 0][0])
    own = module.data.train.human.own(place)[0]
    assert torch.allclose(batch.mask[shown > 0][0, 0], own / own.max())
    plain = next(iter(GazeDataModule(config, train_masks=False).train_dataloader()))
    assert plain.mask is None and plain.human is None
