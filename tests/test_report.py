"""The report: complete, escaped, clear where there is nothing to show; opened in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page

from consumers.runtimes import MODELS, graph_hash
from pipeline.environment import ROOT
from report import __main__ as report

NAMES = [f"class {number}" for number in range(10)]
DATASET = {
    **{"name": "Fashion-MNIST", "license": "MIT", "image_shape": [28, 28], "classes": 10},
    "class_names": {"en": NAMES, "ru": NAMES},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the report reads: committed results, with parameters that don't change with them."""
    shutil.copy(ROOT / "dvc.lock", tmp_path)
    for folder in ("metrics", "plots"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    edit_params(tmp_path, dataset=DATASET, train={"hidden_units": [800], "seed": 42})
    return tmp_path


def edit_params(root: Path, **sections: Any) -> None:
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        # As a stage may depend on a whole section, or on one of its keys.
        stage["params"] = {"params.yaml": {"dataset.classes": sections["dataset"]["classes"]}}
    lock["stages"]["export"]["params"]["params.yaml"] |= sections
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class Parsed(HTMLParser):
    """Lists tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def test_build_shows_the_run_beside_the_paper_without_scripts_or_addresses(root: Path) -> None:
    parsed = Parsed(report.build(root))
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in parsed.tags)
    sources = [attributes["src"] or "" for _, attributes in parsed.tags if "src" in attributes]
    assert all(source.startswith("data:") for source in sources)
    assert len(sources) == len(list((root / "plots").glob("*.png")))
    links = {attributes["href"] for _, attributes in parsed.tags if "href" in attributes}
    assert links == {f"#{attributes['id']}" for _, attributes in parsed.tags if "id" in attributes}
    accuracy = json.loads((root / "metrics/evaluate.json").read_text())["test_accuracy"]
    assert f"On the test set this run reaches {100 * accuracy:.2f} %." in parsed.text
    assert "That does not hold: its own log ends at 89.36 %" in parsed.text
    assert "Not run with these models: make conformance" in parsed.text


def test_build_escapes_what_it_shows(root: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"'"
    names = {"en": [evil, "b"], "ru": [evil, "b"]}
    train = {"hidden_units": [], evil: evil}
    edit_params(root, dataset=DATASET | {"name": evil, "class_names": names}, train=train)
    edit_json(root / "metrics/evaluate.json", **{evil: evil})
    quoted = '"' + evil.replace('"', '""') + '"'
    (root / "plots/classes.csv").write_text(f"class,{quoted}\n{quoted},0.5\n")
    (root / "metrics/proof.csv").write_text(f"check,value\n{quoted},{quoted}\n")
    parsed = Parsed(report.build(root))
    assert parsed.text.count(evil) >= 7
    assert not [1 for tag, attributes in parsed.tags if tag == "script" or "onerror" in attributes]


def test_build_takes_other_data_and_layers_and_leaves_the_paper_out(root: Path) -> None:
    train = {"hidden_units": [256, 128]}
    edit_params(root, dataset=DATASET | {"name": "KMNIST"}, train=train)
    (root / "plots/examples.csv").write_text("image,class,name,probability\n")
    (root / "metrics/evaluate.json").write_text(json.dumps({"validation_accuracy": 0.75}))
    page = report.build(root)
    assert "The paper's numbers are of other data than these." in page
    assert "89.36" not in page
    assert "(784-256-128-10)" in page
    assert "<b>0.7500</b>validation accuracy" in page


def test_build_shows_any_proof_and_the_runtimes(root: Path) -> None:
    (root / "metrics/proof.csv").write_text("check,value\nworst_ulp,7\n")
    (root / "consumers").mkdir()
    runtimes = {"node": {"version": "1.3"}, "c": {"max_difference": 3e-6}}
    (model := root / MODELS["exact"]).parent.mkdir()
    shutil.copy(ROOT / MODELS["exact"], model)
    values = {"images": 10000, "models": {"exact": graph_hash(model)}, "float32": runtimes}
    (root / report.CONFORMANCE).write_text(json.dumps(values))
    text = Parsed(report.build(root)).text
    assert "check value worst_ulp 7" in text
    assert "runtime version max difference node 1.3 – c – 3e-06" in text
    assert "images 10,000" in text
    for models in ({}, {"exact": "0"}):  # nobody knows which, and another
        edit_json(root / report.CONFORMANCE, models=models)
        text = Parsed(report.build(root)).text
        assert "Not run with these models" in text
        assert "runtime version" not in text


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("dvc.lock", None, "dvc.lock is missing; `make` writes it"),
        ("dvc.lock", "a: [", "dvc.lock is damaged (while parsing"),
        ("dvc.lock", "stages: {fetch: {}}", "has no run of preprocess, train, evaluate, export"),
        ("metrics/export.json", "{", "metrics/export.json is damaged (Expecting property name"),
        ("plots/classes.csv", None, "plots/classes.csv is missing; `make` writes it"),
        ("metrics/train.json", '{"train_loss": 0, "train_accuracy": 1}', "not of the run that dvc"),
        ("plots/classes.csv", "class\nx\n", "plots/classes.csv is not of the run that dvc.lock"),
        ("plots/history.png", "x", "plots/history.png is not of the run that dvc.lock records"),
        ("plots/mistakes.png", None, "plots/mistakes.png is missing; `make` draws it"),
    ],
)
def test_main_reports_the_error_and_writes_nothing(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    content: str | None,
    said: str,
) -> None:
    monkeypatch.chdir(root)
    Path(path).unlink() if content is None else Path(path).write_text(content)
    assert report.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("report: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not report.REPORT.exists()


def open_offline(browser: Browser, path: Path, width: int, scheme: Any = "light") -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.goto(path.as_uri())
    return page


@pytest.mark.web
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_report_fits_the_screen_and_shows_every_picture(
    browser: Browser, root: Path, width: int, scheme: str
) -> None:
    (root / "report.html").write_text(report.build(root), encoding="utf-8")
    page = open_offline(browser, root / "report.html", width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.evaluate(
        """[...document.querySelectorAll("main *, header *")].filter(element =>
             element.getBoundingClientRect().right > innerWidth
             && !element.closest(".scroll, pre")).map(element => element.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    sizes = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 9
    assert min(sizes) > 800
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert (int(ink.removeprefix("rgb(").split(",")[0]) < 60) == (scheme == "light")


@pytest.mark.web
@pytest.mark.parametrize("width", [1280, 390])
def test_dvc_plots_diff_shows_both_pictures_whole(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    command = ["dvc", "plots", "diff", "HEAD", "HEAD~1", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    page = open_offline(browser, tmp_path / "index.html", width)
    boxes = page.evaluate(
        "[...document.images].map(it => [it.getBoundingClientRect().right, it.offsetTop])"
    )
    assert len(boxes) == 18
    assert max(right for right, _ in boxes) < width
    first = page.evaluate("document.querySelector('#plots_history_png').offsetTop")
    assert min(top for _, top in boxes) == pytest.approx(first, abs=120)


@pytest.mark.web
def test_dvc_plots_show_is_not_blank_offline(browser: Browser, tmp_path: Path) -> None:
    subprocess.run(["dvc", "plots", "show", "--out", str(tmp_path)], cwd=ROOT, check=True)
    page = open_offline(browser, tmp_path / "index.html", 1280)
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 800)")
    assert page.evaluate("document.images.length") == 9
    assert page.locator(".waiting").count() == 3
    assert "The pictures below need none." in page.locator("#Loss_by_epoch").inner_text()
