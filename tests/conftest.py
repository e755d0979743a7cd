"""What several test modules need: a small data set, a server, the engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from checks.sandbox import edited
from checks.small_data import Data, make_data
from pipeline.params import FILES, Evaluate, Export, Params, Preprocess, Train
from tests.server import Server, serving

HEIGHT, WIDTH, CLASSES = 4, 3, 10  # not square, so that swapped axes show
TRAIN, TEST = 300, 100

# So that no child of a test reads the data from where the user keeps them.
os.environ.pop("FASHION_MNIST_DIR", None)


# An example may take as long as it takes.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

# Tests send Ctrl-C to processes that they start. What is run in a script's background ignores it,
# and so do its children, unless the parent handles it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The longest files are begun first, so that none is left for one worker alone at the end.
LONGEST = ("test_pipeline", "test_tasks", "test_train", "test_environment", "test_evaluate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def other_values(values: Mapping[str, Any], section: Any = Params, at: str = "") -> dict[str, str]:
    """Give, for each key of params.yaml that holds a value, another one that its schema allows.

    As text for `-S`, by dotted key; sources, files and class names are left out.
    """
    others: dict[str, str] = {}
    for key, value in values.items():
        field = getattr(section, "model_fields", {}).get(key)
        options = get_args(field.annotation) if isinstance(value, str) and field else ()
        other: Any = None
        if key in ("sources", "files", "class_names"):
            continue
        if isinstance(value, Mapping):
            others |= other_values(value, field and field.annotation, f"{at}{key}.")
        elif isinstance(value, bool):
            other = not value
        elif isinstance(value, str):
            other = next((option for option in options if option != value), "Adam")
        elif isinstance(value, list | tuple):
            other = [3, 2]
        elif isinstance(value, int):
            other = value + 1
        else:
            other = value / 2 or 0.25
        if other is not None:
            others[at + key] = json.dumps(other, separators=(",", ":")).strip('"')
    return others


def paper_values() -> dict[str, Any]:
    """The paper's parameters, whatever params.yaml says today: its data, the schema's defaults."""
    english = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"
    russian = "футболка брюки свитер платье пальто туфли рубашка кроссовки сумка ботинки"
    return {
        "dataset": {
            "name": "Fashion-MNIST",
            "license": "MIT, Zalando SE",
            "image_shape": [28, 28],
            "photos": "trimmed",
            "classes": CLASSES,
            "class_names": {"en": english.replace("_", " ").split(" ", 9), "ru": russian.split()},
        },
        "fetch": {
            "timeout": 30,
            "sources": [{"environment": "FASHION_MNIST_DIR"}],
            "files": {name: {"bytes": 1, "sha256": 64 * "0"} for name in FILES},
        },
        "preprocess": Preprocess().model_dump(),
        "train": Train().model_dump(),
        "evaluate": Evaluate().model_dump(),
        "export": Export().model_dump(),
        "gate": {"tolerances": {"test_accuracy": 0.005, "other": 0.05}},
    }


def small_values(data: Data, **changes: Any) -> dict[str, Any]:
    """Take the paper's parameters, made small for a data set; more by dotted key."""
    height, width = data.arrays["train-images-idx3-ubyte"].shape[1:]
    values: dict[str, Any] = edited(
        paper_values(),
        {
            "dataset.image_shape": [height, width],
            "fetch.files": data.entries,
            "train.hidden_units": [16],
            "train.batch_size": 50,
            "train.epochs": 2,
            "train.optimizer.config.learning_rate": 0.1,
            "evaluate.examples": [0, 3],
            "export.batch_sizes": [1, 7, 100],
        }
        | changes,
    )
    return values


@pytest.fixture(scope="session")
def data() -> Data:
    return make_data(TRAIN, TEST, (HEIGHT, WIDTH))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def engine() -> None:
    """Start TensorFlow in this process, once: it costs 3 s."""
    from fashion_mlp.network import engine

    engine.start()


@pytest.fixture(scope="session")
def training(engine: None) -> Any:
    """The package fashion_mlp.training with its modules, which load TensorFlow."""
    import fashion_mlp.training.loop
    import fashion_mlp.training.optimizer
    import fashion_mlp.training.workers

    return fashion_mlp.training


@pytest.fixture(scope="session")
def finished_folder(
    data: Data, engine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder in which preprocess and train have run on the small data set."""
    from stages import preprocess, train

    folder = tmp_path_factory.mktemp("finished")
    data.write(folder / "data/raw")
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values(data)))
    before = Path.cwd()
    os.chdir(folder)
    try:
        preprocess.main()
        train.main()
    finally:
        os.chdir(before)
    yield folder


@pytest.fixture
def work(finished_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, of the test's own, as the current folder."""
    folder = tmp_path / "work"
    shutil.copytree(finished_folder, folder)
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder: what must not change when a stage refuses its input."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # root in a container can't have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, one for all tests: a process can't have two of Playwright's loops."""
    if not Path(CHROMIUM).exists():
        pytest.fail(
            f"{CHROMIUM} is missing: apt-get install chromium, or CHROMIUM=/path/to/chromium"
        )
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield started
        started.close()
