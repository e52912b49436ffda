"""Shapes of COCO and Label Studio to masks, against matplotlib and by hand; files that mean harm."""

import json

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image

from gaze.data.annotations import Shape, fill, import_masks, mask_of, read_shapes, write_coco, write_masks
from gaze.errors import ConfigError, DataError

BOX = np.array([[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]])


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "set"
    for name in ("train/cat/a.png", "train/dog/a.png", "test/cat/b c.jpg", "test/cat/猫.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 20)).save(root / name)
    return root


def mask(path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 0


def test_a_polygon_has_the_pixels_whose_centres_lie_in_it():
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:30, :50]
    centres = np.stack([(columns.ravel() + 0.5) / 50, (rows.ravel() + 0.5) / 30], 1)
    for number in (3, 4, 7):
        angle = np.sort(random.uniform(0, 2 * np.pi, number))
        corners = 0.5 + 0.6 * random.uniform(0.3, 1, number)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        expected = Polygon(corners).contains_points(centres).reshape(30, 50)
        np.testing.assert_array_equal(fill(corners, (50, 30)), expected)
    expected = np.zeros((20, 40), bool)
    expected[10:, 10:30] = True
    np.testing.assert_array_equal(fill(BOX, (40, 20)), expected)
    assert not fill(BOX + 2, (40, 20)).any() and not fill(BOX - 2, (40, 20)).any()
    assert fill((BOX - 0.5) * 100, (40, 20)).all()


def test_half_of_the_annotators_decide():
    left, right = BOX - (0.25, 0), np.add(BOX, (0.25, 0))
    shapes = [Shape("x", who, own) for who, own in (("a", left), ("a", right), ("b", left), ("c", left))]
    np.testing.assert_array_equal(mask_of(shapes, (40, 20)), fill(left, (40, 20)))
    np.testing.assert_array_equal(mask_of(shapes[:1], (40, 20)), fill(left, (40, 20)))


def coco(*annotations, file="train/cat/a.png"):
    return {"images": [{"id": 5, "file_name": file, "width": 400, "height": 200}], "annotations": annotations}


def write(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_coco_boxes_and_polygons_become_masks_where_mask_dir_wants_them(images, tmp_path):
    box = {"image_id": 5, "bbox": [100, 100, 200, 100]}
    polygon = {"image_id": 5, "segmentation": [[0, 0, 100, 0, 100, 50, 0, 50], [300, 0, 400, 0, 400, 50, 300, 50]]}
    source = write(tmp_path / "coco.json", coco(box, polygon))
    assert import_masks(source, images, tmp_path / "out")[0] == 1
    found = mask(tmp_path / "out/masks/train/cat/a.png")
    assert found[10:, 10:30].all() and found[:5, :10].all() and found[:5, 30:].all() and found.sum() == 300
    again = import_masks(tmp_path / "out/annotations.json", images, tmp_path / "again")  # what we write we read
    assert again[0] == 1
    np.testing.assert_array_equal(mask(tmp_path / "again/masks/train/cat/a.png"), found)


def label_studio(value, image="/data/local-files/?d=set/test/cat/b%20c.jpg", **more):
    result = {"type": "x", "original_width": 400, "original_height": 200, "value": value}
    return [{"data": {"image": image}, "annotations": [{"completed_by": 1, "result": [result], **more}]}]


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("/data/local-files/?d=set/test/cat/b%20c.jpg", "test/cat/b c.png"),
        ("/data/upload/1/1a2b3c4d-%E7%8C%AB.png", "test/cat/猫.png"),
        ("C:\\images\\train\\dog\\a.png", "train/dog/a.png"),
    ],
)
def test_label_studios_links_are_matched_by_their_ends(images, tmp_path, image, file):
    task = label_studio({"x": 25, "y": 50, "width": 50, "height": 50}, image)
    assert import_masks(write(tmp_path / "ls.json", task), images, tmp_path)[0] == 1
    np.testing.assert_array_equal(mask(tmp_path / "masks" / file), fill(BOX, (40, 20)))


def test_label_studios_polygons_turned_boxes_and_taken_back_answers(tmp_path):
    points = {"points": [[25, 50], [75, 50], [75, 100], [25, 100]]}
    shapes, left = read_shapes(write(tmp_path / "a.json", label_studio(points)))
    np.testing.assert_allclose(shapes[0].corners, BOX)
    assert shapes[0].annotator == "1" and not left
    # By 90 degrees clockwise about its upper left corner: 200 x 100 pixels at (300, 50) come to lie left of it.
    turned = {"x": 75, "y": 25, "width": 50, "height": 50, "rotation": 90}
    shapes, _ = read_shapes(write(tmp_path / "b.json", label_studio(turned)))
    np.testing.assert_allclose(shapes[0].corners * [400, 200], [[300, 50], [300, 250], [200, 250], [200, 50]])
    assert read_shapes(write(tmp_path / "c.json", label_studio(points, was_cancelled=True))) == ([], {})


def test_what_cannot_be_used_is_counted(images, tmp_path):
    good = {"image_id": 5, "bbox": [100, 100, 200, 100]}
    bad = [
        {"image_id": 5, "bbox": [900, 900, 10, 10]}, {"image_id": 9, "bbox": [0, 0, 1, 1]}, {"image_id": 5}, 7,
        {"image_id": 5, "segmentation": {"counts": [1, 2], "size": [1, 3]}}, {"image_id": 5, "bbox": [0, 0, "x", 1]},
        {"image_id": 5, "bbox": [0, 0, float("nan"), 1]}, {"image_id": [], "bbox": [0, 0, 1, 1]},
    ]  # fmt: skip
    data = coco(good, *bad)
    data["images"] += [{"id": 6, "file_name": "nowhere.png", "width": 1, "height": 1}, 3, {"id": 7, "width": 0}]
    data["annotations"] += ({"image_id": 6, "bbox": [0, 0, 1, 1]},)
    found, left = import_masks(write(tmp_path / "coco.json", data), images, tmp_path)
    assert found == 1
    assert left == {
        "without a pixel of their image": 1, "of no image there": 1, "that are no boxes or polygons": 7
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["../../outside.png", "/etc/outside.png", "train/cat/../../../outside.png", "a.png", "", ".."],
)
def test_no_path_of_a_file_leaves_the_root_and_an_unclear_one_is_none(images, tmp_path, name):
    Image.new("L", (40, 20)).save(tmp_path / "outside.png")
    before = sorted(tmp_path.rglob("*"))
    source = write(tmp_path / "coco.json", coco({"image_id": 5, "bbox": [0, 0, 400, 200]}, file=name))
    with pytest.raises(DataError, match="1 shapes of no image there"):
        import_masks(source, images, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, source])


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "as JSON"), ("[" * 100_000, "as JSON"), ("{}", "neither COCO"), ("[]", "neither COCO"),
     ("7", "neither COCO"), ("[{}]", "neither COCO"), ('{"images": 1, "annotations": []}', "neither COCO")],
)  # fmt: skip
def test_what_is_no_file_of_annotations_is_named(images, tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=said):
        import_masks(tmp_path / "x.json", images, tmp_path / "out")
    with pytest.raises(DataError, match="as JSON"):
        import_masks(tmp_path / "none.json", images, tmp_path / "out")
    with pytest.raises(ConfigError, match="is no folder"):
        import_masks(tmp_path / "x.json", tmp_path / "none", tmp_path / "out")


def test_masks_of_somebody_else_are_left_alone_and_our_own_replaced(tmp_path):
    mine = [Shape("x/a.png", "1", BOX)]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/kept.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="not of an earlier export"):
        write_masks(mine, tmp_path, lambda file: (40, 20))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["kept.png"]
    sizes, left = write_masks(mine, tmp_path / "own", lambda file: (40, 20))
    write_coco(tmp_path / "own/annotations.json", mine, sizes, {"x/a.png": "cat"})
    write_masks([Shape("y/b.png", "1", BOX)], tmp_path / "own", lambda file: (40, 20))
    assert [path.name for path in (tmp_path / "own/masks").rglob("*.png")] == ["b.png"] and not +left
    data = json.loads((tmp_path / "own/annotations.json").read_text())
    assert data["annotations"][0]["bbox"] == [10, 10, 20, 10] and data["annotations"][0]["area"] == 200
    assert data["categories"] == [{"id": 1, "name": "cat"}]
