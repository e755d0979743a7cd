"""params.yaml as typed values: one schema that refuses what it does not know.

Each section is one stage's; `dataset` is what several need to know of the data. params.yaml states
every key. A default here is what the paper does: presets and tests say only what differs from it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

PARAMS_FILE = Path("params.yaml")

# The names that MNIST gave its files; every data set made to replace it kept them.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

MOST_INPUTS = 32_768  # of a layer behind the first: the exact model's sums have room for no more

# Values as errors show them. Not repr(), which would spell out a few lines of YAML that name
# each other as gigabytes.
GIVEN = reprlib.Repr()
GIVEN.maxstring = GIVEN.maxother = GIVEN.maxlong = 80


def _number_from_text(value: object) -> object:
    """Read the text `1e-05` as the number it means.

    `dvc exp run -S` writes small floats without a dot, which YAML 1.1 reads as text.
    """
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


Int = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[
    float,
    BeforeValidator(_not_bool),
    BeforeValidator(_number_from_text),
    Field(allow_inf_nan=False),
]
Count = Annotated[Int, Field(ge=1, le=1_000_000)]  # what fits no machine is refused here
Name = Annotated[str, Field(min_length=1)]


def _plain(name: str) -> str:
    """Refuse what a spreadsheet takes for a formula in a CSV file, or a terminal for a command."""
    if name[0] in "=+-@" or not name.isprintable() or name.isspace():
        raise ValueError("a name of printable letters that does not begin with =, +, - or @")
    return name


PlainName = Annotated[Name, AfterValidator(_plain)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassNames(Section):
    """Class names in English, Russian or both, in the order of the label numbers."""

    en: list[PlainName] | None = None
    ru: list[PlainName] | None = None

    @property
    def given(self) -> dict[str, list[PlainName]]:
        """The names, by language; one language at least."""
        return {language: names for language, names in self if names is not None}

    @model_validator(mode="after")
    def _no_duplicates(self) -> ClassNames:
        if not self.given:
            raise ValueError("needs names in one language: en or ru")
        for language, names in self.given.items():
            if len(set(names)) != len(names):
                raise ValueError(f"{language} names a class twice: {names}")
        return self


class Dataset(Section):
    """What the data are."""

    name: PlainName
    license: Name
    image_shape: tuple[Annotated[Int, Field(ge=1)], Annotated[Int, Field(ge=1)]]
    photos: Literal["trimmed", "plain"] = "trimmed"
    classes: Annotated[Int, Field(ge=2, le=256)]
    class_names: ClassNames

    @model_validator(mode="after")
    def _a_name_for_each_class(self) -> Dataset:
        for language, names in self.class_names.given.items():
            if len(names) != self.classes:
                raise ValueError(
                    f"class_names.{language}: expected {self.classes} names (dataset.classes), "
                    f"has {len(names)}"
                )
        return self

    @property
    def pixels(self) -> int:
        """Values in one flattened image."""
        return self.image_shape[0] * self.image_shape[1]

    def names(self, language: str = "en") -> list[Name]:
        """Class names in a language, or in the one that there is."""
        given = self.class_names.given
        return given.get(language) or next(iter(given.values()))


class Source(Section):
    """One place that may hold the files: exactly one kind of place."""

    environment: Name | None = None
    folder: Name | None = None
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    debian_package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = {key for key, value in self if value is not None}
        if given not in ({"environment"}, {"folder"}, {"url"}, {"debian_package", "folder"}):
            allowed = "environment, or folder, or url, or debian_package with folder"
            raise ValueError(f"needs {allowed}, has {', '.join(sorted(given)) or 'none of them'}")
        return self


class File(Section):
    """What the decompressed content of a file must be."""

    bytes: Annotated[Int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Fetch(Section):
    """Stage `fetch`: where the files may come from, and what they must be."""

    timeout: Annotated[Float, Field(gt=0, le=3600)]
    sources: Annotated[list[Source], Field(min_length=1)]
    files: dict[str, File]

    @field_validator("files")
    @classmethod
    def _four_files(cls, files: dict[str, File]) -> dict[str, File]:
        if set(files) != set(FILES):
            raise ValueError(f"needs exactly {', '.join(FILES)}; has {', '.join(files) or 'none'}")
        return files


class Preprocess(Section):
    """Stage `preprocess`."""

    validation_images: Annotated[Int, Field(ge=0)] = 0


class OptimizerConfig(Section):
    """What a Keras optimizer's constructor takes; which keys it knows, Keras itself says."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_number_from_text)]] = Field(
        init=False
    )

    learning_rate: Annotated[Float, Field(gt=0)] = 0.01


class Optimizer(Section):
    """A Keras optimizer, as `keras.optimizers.get` takes it."""

    class_name: Name = "SGD"
    config: OptimizerConfig = OptimizerConfig()


class Train(Section):
    """Stage `train`: the network and how it learns."""

    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 42
    hidden_units: list[Annotated[Int, Field(ge=1, le=MOST_INPUTS)]] = [800]
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    loss: Literal["categorical_crossentropy", "mean_squared_error", "kl_divergence"] = (
        "categorical_crossentropy"
    )
    optimizer: Optimizer = Optimizer()
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    batch_size: Count = 200
    epochs: Count = 100
    standardize: bool = False
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    importance_sampling: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    random_flip: bool = False
    random_affine: Annotated[Float, Field(ge=0, le=1000)] = 0.0
    random_elastic: Annotated[Float, Field(ge=0, le=1000)] = 0.0
    inference_blur: Annotated[Float, Field(ge=0, le=0.5)] = 0.0
    label_smoothing: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[Float, Field(ge=0, le=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "gpu"] = "cpu"
    workers: Count = 1
    steps_per_execution: Count = 100


class Evaluate(Section):
    """Stage `evaluate`."""

    language: Literal["en", "ru"] = "en"
    test: bool = False
    calibration_bins: Count = 15
    examples: list[Annotated[Int, Field(ge=0)]] = [0, 3, 156, 988]


class Export(Section):
    """Stage `export`: the form of the ONNX file, and at which batch sizes it is compared."""

    batch_sizes: Annotated[list[Count], Field(min_length=1)] = [1, 7, 1000, 10000]
    opset: Annotated[Int, Field(ge=13, le=18)] = 13
    ir_version: Annotated[Int, Field(ge=7, le=10)] = 8


class Gate(Section):
    """By how much metrics may differ where the bits do."""

    tolerances: dict[Name, Annotated[Float, Field(ge=0)]]


class Params(Section):
    """All of params.yaml."""

    dataset: Dataset
    fetch: Fetch
    preprocess: Preprocess
    train: Train
    evaluate: Evaluate
    export: Export
    gate: Gate

    @property
    def measured(self) -> Literal["test", "validation"]:
        """The split whose metrics a run may look at."""
        held_out = self.preprocess.validation_images > 0
        return "validation" if held_out and not self.evaluate.test else "test"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: the file is not YAML, or does not fit the schema; the text has one line
            for each fault: key, value, what is allowed.
        OSError: the file can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)  # no tag of YAML can construct an object here
        by_dvc = YAML(typ="safe").load(text)
    except OSError:
        raise
    except Exception as error:  # not YAMLError only: `2001-99-99` or deep nesting raise others
        reason = " ".join(str(error).split("To suppress this check")[0].split())[:300]
        raise ValueError(f"{path} is not YAML: {reason or type(error).__name__}") from None
    if lines := list(_ambiguous(values, by_dvc, "", set())):
        raise ValueError("\n".join(f"{path}: {line}" for line in lines))
    return check_params(values, str(path))


def _ambiguous(values: Any, by_dvc: Any, key: str, seen: set[int]) -> Iterator[str]:
    """Name the values that YAML 1.1 (here) and YAML 1.2 (DVC's lock) read differently.

    `seen` holds the ids of what was compared: a few aliases can make a tree of gigabytes.
    """
    if isinstance(values, dict | list):
        if id(values) in seen:
            return
        seen.add(id(values))
    if isinstance(values, dict) and isinstance(by_dvc, dict) and values.keys() == by_dvc.keys():
        for name, value in values.items():
            yield from _ambiguous(value, by_dvc[name], f"{key}.{name}" if key else str(name), seen)
    elif isinstance(values, list) and isinstance(by_dvc, list) and len(values) == len(by_dvc):
        for number, pair in enumerate(zip(values, by_dvc, strict=True)):
            yield from _ambiguous(*pair, f"{key}.{number}", seen)
    elif not _alike(values, by_dvc) and not _alike(_number_from_text(values), by_dvc):
        yield (
            f"{key or 'the whole file'}: expected a value that every version of YAML reads alike; "
            f"YAML 1.1 reads {_show(values)}, YAML 1.2 {_show(by_dvc)}: quote a text, write a "
            f"number in plain decimals"
        )


def _alike(one: Any, other: Any) -> bool:
    """Compare two scalars and their types; not by repr(), which fails on thousands of digits."""
    if type(one) is not type(other) or isinstance(one, dict | list):
        return False
    return bool(one == other or one != one)  # NaN is alike


def check_params(values: Any, where: str = str(PARAMS_FILE)) -> Params:
    """Check values as `load_params` does; `where` names their source in errors."""
    lines = [_explain_missing(key) for key in _missing(Params, values)]
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines += [_explain(fault) for fault in error.errors()]
    if lines:
        raise ValueError("\n".join(f"{where}: {line}" for line in lines))
    return params


def _missing(section: type[Section], values: Any, prefix: str = "") -> Iterator[str]:
    """Name the keys that have a default and are not in `values`: params.yaml states them too."""
    if not isinstance(values, dict):
        return
    for name, field in section.model_fields.items():
        if name not in values:
            if not field.is_required() and field.default is not None:
                yield prefix + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _missing(field.annotation, values[name], f"{prefix}{name}.")


def _explain_missing(key: str) -> str:
    return f"{key} is missing; add it (`git show HEAD:params.yaml` has every key)"


def _explain(fault: ErrorDetails) -> str:
    """Say one fault as `key: what is allowed, got value`."""
    key = ".".join(_show_key(part) for part in fault["loc"]) or "the whole file"
    kind, given = fault["type"], _show(fault.get("input"))
    if kind == "missing":
        return _explain_missing(key)
    if kind == "extra_forbidden":
        known = ", ".join(_known_keys(fault["loc"][:-1]))
        return f"{key} is unknown (value {given}); known here: {known}"
    message = fault["msg"]
    if kind == "value_error":  # ours, which starts as it should
        message = message.removeprefix("Value error, ")
    else:
        message = message[:1].lower() + message[1:]
    return f"{key}: {message}; got {given}"


def _show_key(part: int | str) -> str:
    text = str(part)
    return text if text.isprintable() and text else repr(text)


def _show(value: object) -> str:
    try:
        return GIVEN.repr(value)
    except ValueError:  # Python spells out no integer of more than 4,300 digits
        return "a number with thousands of digits"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Name the keys that the schema knows at a place in the file."""
    kind: Any = Params
    for part in location:
        fields = getattr(kind, "model_fields", {})  # a list or a mapping has none
        kind = fields[part].annotation if part in fields else get_args(kind)[-1]
    return sorted(kind.model_fields)
