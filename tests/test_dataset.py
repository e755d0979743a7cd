"""tasks/dataset.py: folders of pictures become a data set."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from consumers.python import predict
from fashion_mlp.data.idx import iter_rows, read_header
from pipeline.params import FILES, load_params
from tasks import dataset
from tests.conftest import paper_values, snapshot
from tests.photos import photo

COMMENT = "# in front of dataset"
COLOURS = [(20 + 9 * n, 200 - 9 * n, 5 * n) for n in range(20)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the paper's params.yaml in it."""
    text = yaml.safe_dump(paper_values(), allow_unicode=True, sort_keys=False)
    (tmp_path / "params.yaml").write_text(f"{COMMENT}\n{text}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clothes(work: Path) -> Path:
    """Twenty pictures of each of two classes, one of them a JPEG."""
    for name, outline in (("Shirts", "shirt"), ("Shoes", "shoe")):
        (work / "clothes" / name).mkdir(parents=True)
        for number, colour in enumerate(COLOURS):
            place = work / "clothes" / name / f"{number}.{'png' if number else 'jpg'}"
            photo((60, 80 - number), outline, colour=colour).save(place)
    return work / "clothes"


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read what was written: images uint8 (n, height, width) and labels uint8 (n,)."""
    read = []
    for kind, axes in (("images-idx3", 3), ("labels-idx1", 1)):
        path = dataset.OWN / f"{split}-{kind}-ubyte"
        read.append(np.concatenate(list(iter_rows(path, read_header(path, axes), 1000))))
    return read[0], read[1]


def splits() -> dict[bytes, str]:
    return {image.tobytes(): split for split in ("train", "t10k") for image in arrays(split)[0]}


def fails(work: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Run what must write nothing; return the lines of the error."""
    before = snapshot(work)
    assert dataset.main([*arguments, "clothes"]) == 1
    assert snapshot(work) == before
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("dataset: ")
    return [line.strip() for line in lines] or [first]


def test_images_are_what_predict_sees_of_the_photos(clothes: Path) -> None:
    assert dataset.main(["clothes"]) == 0
    found = {
        (image.tobytes(), int(label))
        for split in ("train", "t10k")
        for image, label in zip(*arrays(split), strict=True)
    }
    expected = {
        (predict.to_picture(predict.read_photo(path)).tobytes(), number)
        for number, name in enumerate(("Shirts", "Shoes"))
        for path in (clothes / name).iterdir()
    }
    assert found == expected


def test_params_describe_the_files_and_keep_comments(clothes: Path) -> None:
    assert dataset.main(["clothes"]) == 0
    params = load_params()
    assert params.dataset.name == "clothes"
    assert params.dataset.class_names.given == {"en": ["Shirts", "Shoes"]}
    assert (params.dataset.classes, params.dataset.image_shape) == (2, (28, 28))
    assert [source.folder for source in params.fetch.sources] == ["data/own"]
    for name in FILES:
        content = (dataset.OWN / name).read_bytes()
        assert params.fetch.files[name].bytes == len(content)
        assert params.fetch.files[name].sha256 == hashlib.sha256(content).hexdigest()
    assert Path("params.yaml").read_text(encoding="utf-8").startswith(COMMENT)
    assert params.train == type(params.train)()


def test_content_decides_the_split_not_names_nor_other_pictures(clothes: Path) -> None:
    for path in list((clothes / "Shirts").iterdir())[:9]:
        shutil.move(path, clothes / path.name)
    assert dataset.main(["--name=few", "clothes"]) == 1  # pictures in no class's folder
    for path in list(clothes.glob("*.*")):
        path.rename(path.with_name(f".{path.name}"))  # hidden: left out
    assert dataset.main(["clothes"]) == 0
    before = splits()
    for number, path in enumerate(clothes.glob(".*.*")):
        path.rename(clothes / "Shirts" / f"new{number}{path.suffix}")
    for number, path in enumerate((clothes / "Shoes").iterdir()):
        path.rename(path.with_name(f"renamed{number}{path.suffix}"))
    assert dataset.main(["clothes"]) == 0
    after = splits()
    assert len(after) == len(before) + 9
    assert {image: after[image] for image in before} == before
    assert set(after.values()) == {"train", "t10k"}


def test_classes_are_mixed_so_that_the_end_can_be_held_out(clothes: Path) -> None:
    assert dataset.main(["clothes"]) == 0
    assert set(arrays("train")[1][-8:]) == {0, 1}


def test_train_and_test_folders_decide(clothes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Shirts", "Shoes"):
        for split, numbers in (("Train", range(1, 18)), ("test", (18, 19))):
            (clothes / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(clothes / name / f"{number}.png", clothes / split / name)
        shutil.rmtree(clothes / name)
    assert dataset.main(["clothes"]) == 0
    counts = [Counter(arrays(split)[1].tolist()) for split in ("train", "t10k")]
    assert counts == [{0: 17, 1: 17}, {0: 2, 1: 2}]
    (clothes / "Train").rename(clothes / "train")
    shutil.copy(clothes / "train/Shoes/1.png", clothes / "test/Shoes/again.png")
    shutil.copytree(clothes / "test", clothes / "val")
    assert fails(Path(), capsys) == [
        "clothes/val: beside train/ or test/; expected these two alone",
        "clothes/test/Shoes/again.png, clothes/train/Shoes/1.png: the same image in train and test",
    ]


def test_every_picture_that_cannot_be_used_is_named(
    work: Path, clothes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clothes / "Shoes/empty.png").touch()
    (clothes / "Shoes/text.jpg").write_text("a shoe")
    Image.new("RGB", (50, 50), "white").save(clothes / "Shoes/white.png")
    shutil.copy(clothes / "Shoes/1.png", clothes / "Shirts/shoe.png")
    (clothes / "Bags").mkdir()
    (clothes / "Shoes/more").mkdir()
    (clothes / "list.txt").write_text("Shoes")
    assert sorted(fails(work, capsys)) == [
        "clothes/Bags: no picture in this folder",
        "clothes/Shirts/shoe.png, clothes/Shoes/1.png: the same image in two classes",
        "clothes/Shoes/empty.png: the file is empty (0 bytes)",
        "clothes/Shoes/more: a folder in a class's folder; expected pictures",
        "clothes/Shoes/text.jpg: not a PNG, JPEG, WebP, GIF or BMP picture",
        "clothes/Shoes/white.png: nothing to see: the photo is all of one colour",
        "clothes/list.txt: in no class's folder",
    ]


def test_what_is_left_out_is_said(clothes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(clothes / "Shoes/1.png", clothes / "Shoes/1 (copy).png")
    (clothes / "Shoes/.DS_Store").touch()
    assert dataset.main(["clothes"]) == 0
    assert len(splits()) == 40
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "dataset: clothes/Shoes/.DS_Store: hidden, left out",
        "dataset: clothes/Shoes/1 (copy).png, clothes/Shoes/1.png: the same image; used once",
    ]


def test_a_class_or_a_split_without_images_is_refused(
    work: Path, clothes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(clothes / "Shirts")
    assert fails(work, capsys) == ["expected 2 to 256 classes, a folder for each; got 1"]
    (clothes / "Bags").mkdir()
    photo(outline="trousers").save(clothes / "Bags/1.png")
    for path in (clothes / "Shoes").glob("*.png"):
        path.unlink()
    assert "no test image; add pictures, or lay out train/ and test/" in fails(work, capsys)
    shutil.rmtree(clothes)
    assert fails(work, capsys) == ["dataset: clothes: no such folder; make dataset FOLDER=PATH"]
    assert dataset.main(["~nobody-of-this-name/clothes"]) == 1
    assert capsys.readouterr().err.startswith("dataset: Could not determine home directory")


@pytest.mark.parametrize("fault", ["params.yaml", "a file in the place of data/own"])
def test_what_cannot_be_read_or_written_leaves_all_as_it_was(
    fault: str, work: Path, clothes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if fault == "params.yaml":
        Path("params.yaml").write_text("dataset: 1\n", encoding="utf-8")
        assert fails(work, capsys)[0].startswith("params.yaml: ")
    else:
        Path("data").mkdir()
        dataset.OWN.write_text("")
        (line,) = fails(work, capsys)
        assert line.startswith("dataset: [Errno ")


def test_plain_resizes_to_a_shape_and_does_nothing_else(clothes: Path) -> None:
    assert dataset.main(["--plain", "--shape=20x40", "clothes"]) == 0
    params = load_params()
    assert (params.dataset.photos, params.dataset.image_shape) == ("plain", (20, 40))
    with Image.open(clothes / "Shoes/5.png") as picture:
        expected = predict.to_picture(picture, (20, 40), "plain")
    assert expected.tobytes() in splits()


def test_cyrillic_names_are_the_russian_ones(clothes: Path) -> None:
    (clothes / "Shirts").rename(clothes / "Рубашки")
    (clothes / "Shoes").rename(clothes / "Туфли")
    assert dataset.main(["--name=Одежда", "clothes"]) == 0
    params = load_params()
    assert params.dataset.class_names.given == {"ru": ["Рубашки", "Туфли"]}
    assert params.evaluate.language == "ru"
    assert params.dataset.names("en") == ["Рубашки", "Туфли"]


def test_names_that_yaml_reads_as_something_else_stay_names(clothes: Path) -> None:
    (clothes / "Shirts").rename(clothes / "no")
    (clothes / "Shoes").rename(clothes / "12:30")
    assert dataset.main(["--name=on", "clothes"]) == 0
    params = load_params()
    assert (params.dataset.name, params.dataset.names("en")) == ("on", ["12:30", "no"])


def test_two_folders_of_one_class_are_refused(
    clothes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("NFC", "NFD"):
        shutil.copytree(clothes / "Shoes", clothes / unicodedata.normalize(form, "été"))
    (fault,) = fails(clothes.parent, capsys)[:1]
    assert "a second folder of the class 'été'" in fault


@pytest.mark.parametrize("shape", ["28", "0x28", "28x", "x", "28x28x3", "28x257"])
def test_a_shape_is_two_numbers(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dataset.main([f"--shape={shape}", "clothes"])
    assert "expected HEIGHTxWIDTH, as 28x28" in capsys.readouterr().err
