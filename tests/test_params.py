import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks.sandbox import edited
from pipeline.environment import ROOT
from pipeline.params import Params, Train, check_params, load_params
from tests.conftest import other_values, paper_values

VALUES = paper_values()
TEXT = yaml.safe_dump(VALUES, allow_unicode=True, sort_keys=False)
IS_MISSING = "is missing; add it (`git show HEAD:params.yaml` has every key)"
EXAMPLES = settings(max_examples=100, suppress_health_check=list(HealthCheck))


def paths(values: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each key and each list entry, parents too."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in children:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*at, key))


PATHS = list(paths(VALUES))  # of every key that the schema knows: the defaults are of the schema
# What is in these may be left out, or is of several kinds: tests of their own.
FREE = ("sources", "files", "class_names", "tolerances")
KEYS = [path for path in PATHS if isinstance(path[-1], str) and not {*path[1:-1]} & {*FREE}]


def look(values: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        values = values[part]
    return values


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    """Put a value in the place of another; without YAML, which would refuse some."""
    values = edited(VALUES, {})
    look(values, path[:-1])[path[-1]] = value
    return values


def fault(values: Any) -> str | None:
    """Say why values are refused; anything raised but ValueError fails the test."""
    try:
        check_params(values)
    except ValueError as error:
        return str(error)
    return None


def names(text: str, path: tuple[str | int, ...]) -> bool:
    """Tell whether each line names its key, and one of them `path` or what holds it."""
    dotted = ".".join(map(str, path))
    keys = []
    for line in text.splitlines():
        assert line.startswith("params.yaml: "), line
        keys.append(line.removeprefix("params.yaml: ").split(" ")[0].rstrip(":"))
    return any(f"{dotted}.".startswith(f"{key}.") or key.startswith(f"{dotted}.") for key in keys)


def test_the_defaults_are_the_papers_training() -> None:
    train = Train()
    assert (train.hidden_units, train.activation) == ([800], "relu")
    assert (train.loss, train.batch_size, train.epochs) == ("categorical_crossentropy", 200, 100)
    assert train.optimizer.model_dump() == {"class_name": "SGD", "config": {"learning_rate": 0.01}}
    assert check_params(VALUES).train == train


RATE = "train.optimizer.config.learning_rate"
SAYS = [
    ("train.epochs", -1, "input should be greater than or equal to 1; got -1"),
    ("train.epochs", True, "a number, not true or false; got True"),
    ("train.activation", "gelu", "input should be 'relu', 'sigmoid' or 'tanh'; got 'gelu'"),
    (RATE, 0, "input should be greater than 0; got 0"),
    (RATE, "-1e-05", "input should be greater than 0; got '-1e-05'"),
    (RATE, "1e999", "input should be a finite number; got '1e999'"),
    ("train.hidden_units.0", 0, "input should be greater than or equal to 1; got 0"),
    ("gate.tolerances.other", math.nan, "input should be a finite number; got nan"),
    ("fetch.files.train-labels-idx1-ubyte.sha256", "beef",
     "string should match pattern '^[0-9a-f]{64}$'; got 'beef'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), SAYS)
def test_check_params_says_key_value_and_what_is_allowed(
    key: str, value: Any, message: str
) -> None:
    (path,) = (path for path in PATHS if ".".join(map(str, path)) == key)
    assert fault(changed(path, value)) == f"params.yaml: {key}: {message}"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\x1b[2J", "a\nb"])
def test_check_params_refuses_a_class_name_that_a_spreadsheet_or_a_terminal_would_run(
    name: str,
) -> None:
    for language in ("en", "ru"):
        text = fault(edited(VALUES, {f"dataset.class_names.{language}": [name, *"abcdefghi"]}))
        allowed = "a name of printable letters that does not begin with =, +, - or @"
        assert text == f"params.yaml: dataset.class_names.{language}.0: {allowed}; got {name!r}"


def test_check_params_names_every_fault_in_a_line_of_its_own() -> None:
    values = edited(VALUES, {"train.epochs": 0, "evaluate.language": "de"})
    del values["preprocess"]
    text = fault(values) or ""
    assert len(text.splitlines()) == 3
    assert f"params.yaml: preprocess {IS_MISSING}" in text.splitlines()


@pytest.mark.parametrize("path", [path for path in PATHS if isinstance(look(VALUES, path), dict)])
def test_check_params_names_what_is_known_beside_a_key_that_is_not(
    path: tuple[str | int, ...],
) -> None:
    known = look(VALUES, path)
    text = fault(changed((*path, "unheard_of"), 1.5))
    if path in {("train", "optimizer", "config"), ("gate", "tolerances")}:
        assert text is None  # Keras says what it knows; any metric may have a tolerance
    elif path == ("fetch", "files"):
        fifth = {"bytes": 1, "sha256": "0" * 64}
        assert "needs exactly" in (fault(changed((*path, "unheard_of"), fifth)) or "")
    else:
        assert text is not None
        assert f"{'.'.join(map(str, path))}" in text
        assert "unheard_of" in text
        assert all(str(key) in text for key in known)


@pytest.mark.parametrize("value", [0, 0.0, False, "text", [1, 2]])
def test_check_params_keeps_any_option_of_an_optimizer(value: Any) -> None:
    config = check_params(edited(VALUES, {"train.optimizer.config.option": value})).train.optimizer
    found = config.config.model_dump()
    assert list(found) == ["learning_rate", "option"]
    assert (type(found["option"]), found["option"]) == (type(value), value)


@pytest.mark.parametrize(
    "source",
    [{}, {"url": "https://a/", "folder": "b"}, {"debian_package": "a1"}, {"url": "ftp://a/"}],
)
def test_check_params_refuses_a_source_of_no_kind_or_two(source: dict[str, str]) -> None:
    text = fault(edited(VALUES, {"fetch.sources": [source]})) or ""
    assert text.startswith("params.yaml: fetch.sources.0")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"en": ["a", "b"], "ru": ["а"]},
            "dataset: class_names.ru: expected 2 names (dataset.classes), has 1",
        ),
        (
            {"en": ["a", "a"], "ru": ["а", "б"]},
            "dataset.class_names: en names a class twice: ['a', 'a']",
        ),
        ({}, "dataset.class_names: needs names in one language: en or ru"),
    ],
)
def test_check_params_refuses_class_names_that_do_not_fit(classes: Any, message: str) -> None:
    text = fault(edited(VALUES, {"dataset.classes": 2, "dataset.class_names": classes})) or ""
    assert text.startswith(f"params.yaml: {message}; got ")


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "0.00001", " 1e-05 "])
@pytest.mark.parametrize("option", ["learning_rate", "epsilon"])
def test_check_params_reads_a_small_number_written_as_text(option: str, text: str) -> None:
    params = check_params(edited(VALUES, {f"train.optimizer.config.{option}": text}))
    assert params.train.optimizer.config.model_dump()[option] == 1e-05


@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_check_params_names_a_key_that_is_missing(path: tuple[str | int, ...]) -> None:
    values = edited(VALUES, {})
    del look(values, path[:-1])[path[-1]]
    assert fault(values) == f"params.yaml: {'.'.join(map(str, path))} {IS_MISSING}"


WRONG = [None, {}, [], [[]], {"a": {"b": [1]}}, "", b"", -1, math.nan, object()]
MAY_BE_EMPTY = [("evaluate", "examples"), ("train", "hidden_units"), ("gate", "tolerances")]


@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_check_params_refuses_a_wrong_type_wherever_it_stands(path: tuple[str | int, ...]) -> None:
    for value in WRONG:
        text = fault(changed(path, value))
        if text is None:
            assert path in MAY_BE_EMPTY
            assert value in ([], {})
        else:
            assert names(text, path)


@EXAMPLES
@given(
    at=st.integers(0, len(TEXT)),
    cut=st.integers(0, 40),
    insert=st.text(max_size=12) | st.sampled_from(["\t", "&a [*a]", "!!python/object:os.x ", "'"]),
)
def test_load_params_of_a_mangled_file_is_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, cut: int, insert: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_text(TEXT[:at] + insert + TEXT[at + cut :], encoding="utf-8", errors="replace")
    try:
        params = load_params(path)
    except ValueError as error:
        assert all(line.startswith(str(path)) for line in str(error).splitlines())
    else:
        assert isinstance(params, Params)


BILLION_LAUGHS = "a: &a [x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1, 2]",
        "a: &a [*a]",
        "[" * 3_000,
        "{a: " * 3_000,
        "a: 2001-99-99",
        "a: !!int x",
        "a: !!binary x",
        "a: !!python/object/apply:os.system ['touch mark']",
        f"a: {'9' * 5000}",
        f"a: 0x{'f' * 5000}",
        "a: 1\n--- \nb: 2",
        "a: *b",
        "? [1]\n: 2",
        BILLION_LAUGHS,
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_load_params_of_a_malicious_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        load_params(path)
    assert all(line.startswith(str(path)) for line in str(error.value).splitlines())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("yes", "YAML 1.1 reads True, YAML 1.2 'yes'"),
        ("010", "YAML 1.1 reads 8, YAML 1.2 10"),
        ("1:30", "YAML 1.1 reads 90, YAML 1.2 '1:30'"),
    ],
)
def test_load_params_refuses_what_versions_of_yaml_read_differently(
    tmp_path: Path, text: str, read: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("seed: 42", f"seed: {text}"), encoding="utf-8")
    with pytest.raises(ValueError) as error:
        load_params(path)
    assert str(error.value).startswith(f"{path}: train.seed: expected a value that every version")
    assert read in str(error.value)


def test_load_params_refuses_a_key_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("  seed: 42\n", "  seed: 42\n  seed: 43\n"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not YAML: .*duplicate key \"seed\""):
        load_params(path)


def test_load_params_reads_what_yaml_and_dvc_write(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert load_params(path) == check_params(VALUES)
    other = {key: text for key, text in other_values(VALUES).items() if key != "dataset.classes"}
    other[RATE] = "0.00001"  # DVC writes the text 1e-05
    others = [f"{key}={text}" for key, text in other.items()]
    apply_overrides(path, [*others, "+train.optimizer.config.momentum=0.9"])  # no key of the file
    values = load_params(path).model_dump()
    assert values["train"]["optimizer"]["config"] == {"learning_rate": 1e-05, "momentum": 0.9}
    for key in other:
        assert look(values, tuple(key.split("."))) != look(VALUES, tuple(key.split("."))), key


def test_a_preset_says_what_differs_from_the_papers_training() -> None:
    presets = sorted((ROOT / "presets").glob("*.yaml"))
    assert {"paper", "quick", "accurate"} <= {path.stem for path in presets}
    paper = Train().model_dump()
    for path in presets:
        train = yaml.safe_load(path.read_text(encoding="utf-8"))["train"]
        check_params(edited(VALUES, {"train": paper | train}))
        assert not [key for key, value in train.items() if paper[key] == value], path.name


def test_dvc_changes_one_line_of_the_committed_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    before = path.read_text(encoding="utf-8").splitlines()
    apply_overrides(path, [f"train.seed={load_params(path).train.seed + 1}"])
    after = path.read_text(encoding="utf-8").splitlines()
    assert [pair for pair in zip(before, after, strict=True) if len(set(pair)) > 1] == [
        pair for pair in zip(before, after, strict=True) if "seed: " in pair[0]
    ]


def test_dvc_writes_yaml_when_it_empties_a_list_of_the_committed_file(tmp_path: Path) -> None:
    text, path = (ROOT / "params.yaml").read_text(encoding="utf-8"), tmp_path / "params.yaml"
    values = yaml.safe_load(text)
    lists = [it for it in paths(values) if isinstance(look(values, it), list) and len(it) == 2]
    assert ("train", "hidden_units") in lists
    for section, key in lists:
        path.write_text(text, encoding="utf-8")
        apply_overrides(path, [f"{section}.{key}=[]"])
        expected = values | {section: values[section] | {key: []}}
        assert yaml.safe_load(path.read_text(encoding="utf-8")) == expected
