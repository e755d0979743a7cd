"""docs/own-pictures.md, word for word: from folders of pictures to a page that names them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from checks.sandbox import Sandbox
from pipeline.environment import ROOT
from tests.server import serving_folder

pytestmark = pytest.mark.web  # it needs the page's packages

DOCUMENT = (ROOT / "docs/own-pictures.md").read_text(encoding="utf-8")
NAMES = ["Circle", "Square", "Triangle"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project in which the document's commands have run."""
    sandbox = Sandbox(tmp_path_factory.mktemp("own"), 20, 10, export__batch_sizes=[1, 7, 1000])
    packages = "consumers/web/node_modules"
    (sandbox.folder / packages).symlink_to(ROOT / packages)
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    (sandbox.folder / "shapes.py").write_text(script, encoding="utf-8")
    draw, dataset, run, page, predict = re.findall(r"^\$ (.*)$", DOCUMENT, re.M)
    assert page == "make page"
    printed = [sandbox.good(command) for command in (draw, dataset, run, predict)]
    sandbox.good(".venv/bin/python consumers/web/prepare.py")
    (sandbox.folder / "printed").write_text("\n".join(printed), encoding="utf-8")
    return sandbox


@pytest.fixture
def address(own: Sandbox) -> Iterator[str]:
    with serving_folder(own.folder / "consumers/web") as server:
        yield server


def test_commands_end_in_a_network_that_knows_the_shapes(own: Sandbox) -> None:
    printed = (own.folder / "printed").read_text(encoding="utf-8")
    (accuracy,) = re.findall(r"^evaluate: .* test_accuracy ([\d.]+)", printed, re.M)
    assert float(accuracy) > 0.9
    assert "equal to Keras on 300 of 300 images" in printed
    assert re.search(r"^shapes/Square/7.png: Square, 0\.\d+$", printed, re.M)
    status, output = own.run(".venv/bin/python consumers/python/predict.py shapes/Circle --json")
    assert (status, output.count('"class": "Circle"') > 95) == (0, True)


def test_report_and_labels_speak_of_the_shapes(own: Sandbox) -> None:
    own.good(".venv/bin/python -m report")
    report = (own.folder / "report.html").read_text(encoding="utf-8")
    assert "fashion-mlp on shapes" in report
    labels = (own.folder / "models/labels.json").read_text(encoding="utf-8")
    assert re.findall("Circle|Square|Triangle|shirt", labels) == NAMES


def test_page_names_the_shapes(own: Sandbox, address: str, browser: Browser) -> None:
    page = browser.new_page(locale="en")
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    expect(page).to_have_title("What is this? · shapes")
    expect(page.locator("#about")).to_contain_text("the 3 classes of shapes")
    tests = (own.folder / "data/raw/t10k-labels-idx1-ubyte").stat().st_size - 8  # below 100
    expect(page.locator("#about")).to_contain_text(f" of {tests} test pictures")
    assert page.locator("#bars li span:first-child").all_text_contents() == NAMES
    page.click("#tab-photo")
    page.set_input_files("#file", own.folder / "shapes/Triangle/3.png")
    expect(page.locator("#result")).to_have_text(re.compile(r"^Triangle, \d\d\.\d%$"))
    expect(page.locator("#warning")).to_be_hidden()
    page.close()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("FOLDER=", "name a folder with one for each class: make dataset FOLDER=path"),
        ("FOLDER=--help", "dataset: --help: no such folder"),
        ("FOLDER=a'b\"; touch ran", "dataset: a'b\"; touch ran: no such folder"),
    ],
)
def test_make_dataset_takes_a_folder_as_it_is_written(
    value: str, reason: str, own: Sandbox
) -> None:
    before = own.results(), (own.folder / "params.yaml").read_bytes()
    status, output = own.run("make", "dataset", value)
    assert (status != 0, reason in output) == (True, True)
    assert not (own.folder / "ran").exists()
    assert (own.results(), (own.folder / "params.yaml").read_bytes()) == before


def test_checking_out_params_brings_back_the_data_of_before(own: Sandbox) -> None:
    own.good("git checkout --quiet params.yaml")
    assert "fetch: 4 files" in own.good("dvc repro fetch")
