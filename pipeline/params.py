"""params.yaml as typed values: one schema that refuses what it does not know.

Each section is one stage's; `dataset` is what several need to know of the data.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

PARAMS_FILE = Path("params.yaml")

# The names that MNIST gave its files; every data set made to replace it kept them.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# Which optimizers know which options: the constructors' signatures in keras.optimizers.
OPTIMIZER_OPTIONS = {
    "SGD": {"momentum", "nesterov", "weight_decay"},
    "RMSprop": {"momentum", "weight_decay"},
    "Adam": {"weight_decay"},
    "AdamW": {"weight_decay"},
}

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
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Classes(Section):
    """Class names in both languages, in the order of the label numbers."""

    en: Annotated[list[Name], Field(min_length=2, max_length=256)]
    ru: list[Name]

    @model_validator(mode="after")
    def _same_count(self) -> Classes:
        for language, names in (("en", self.en), ("ru", self.ru)):
            if len(set(names)) != len(names):
                raise ValueError(f"{language} names a class twice: {names}")
        if len(self.ru) != len(self.en):
            raise ValueError(f"as many ru names as en names: {len(self.ru)} and {len(self.en)}")
        return self


class Dataset(Section):
    """What the data are."""

    name: Name
    license: Name
    image_shape: tuple[Annotated[Int, Field(ge=1)], Annotated[Int, Field(ge=1)]]
    classes: Classes

    @property
    def pixels(self) -> int:
        """Values in one flattened image."""
        return self.image_shape[0] * self.image_shape[1]


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

    validation_images: Annotated[Int, Field(ge=0)]


class Optimizer(Section):
    """A Keras optimizer and the options that it knows."""

    name: Literal["SGD", "Adam", "AdamW", "RMSprop"]
    learning_rate: Annotated[Float, Field(gt=0)]
    momentum: Annotated[Float, Field(ge=0, le=1)]
    nesterov: bool
    weight_decay: Annotated[Float, Field(ge=0)]
    ema_momentum: Annotated[Float, Field(ge=0, lt=1)]
    schedule: Literal["constant", "cosine"]

    @model_validator(mode="after")
    def _options_known(self) -> Optimizer:
        unknown = {key for key, value in self.options.items() if value}
        unknown -= OPTIMIZER_OPTIONS[self.name] | {"learning_rate", "ema_momentum", "use_ema"}
        if unknown:
            raise ValueError(
                f"{self.name} has no {', '.join(sorted(unknown))}: set it to 0 or false"
            )
        return self

    @property
    def options(self) -> dict[str, float | bool]:
        """The options that are set, as the optimizer's constructor takes them."""
        options = {
            key: value
            for key, value in self
            if key not in ("name", "schedule") and value is not False and value != 0
        }
        return options | ({"use_ema": True} if self.ema_momentum else {})


class Train(Section):
    """Stage `train`: the network and how it learns."""

    seed: Annotated[Int, Field(ge=0, lt=2**32)]
    hidden_units: Annotated[Int, Field(ge=1)]
    activation: Literal["relu", "sigmoid", "tanh"]
    loss: Literal["categorical_crossentropy", "mean_squared_error", "kl_divergence"]
    optimizer: Optimizer
    batch_size: Annotated[Int, Field(ge=1)]
    epochs: Annotated[Int, Field(ge=1)]
    standardize: bool
    dropout: Annotated[Float, Field(ge=0, lt=1)]
    flip: bool
    mixup: Annotated[Float, Field(ge=0, le=1)]
    warp: Annotated[Float, Field(ge=0, le=1000)]
    precision: Literal["float32", "bfloat16"]
    steps_per_execution: Annotated[Int, Field(ge=1)]


class Evaluate(Section):
    """Stage `evaluate`."""

    language: Literal["en", "ru"]
    calibration_bins: Annotated[Int, Field(ge=1)]
    examples: list[Annotated[Int, Field(ge=0)]]


class Export(Section):
    """Stage `export`: the form of the ONNX file, and how equal it must be."""

    opset: Annotated[Int, Field(ge=13, le=21)]
    ir_version: Annotated[Int, Field(ge=7, le=10)]
    tolerance: Annotated[Float, Field(gt=0, le=1e-4)]
    batch_sizes: Annotated[list[Annotated[Int, Field(ge=1)]], Field(min_length=1)]
    int8: bool


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


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: the file is not YAML, or does not fit the schema; the text has one line
            for each fault: key, value, what is allowed.
        OSError: the file can't be read.
    """
    try:
        # safe_load: no tag of YAML can construct an object here.
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # not YAMLError only: `2001-99-99` or deep nesting raise others
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is not YAML: {reason}") from None
    return check_params(values, str(path))


def check_params(values: Any, where: str = str(PARAMS_FILE)) -> Params:
    """Check values as `load_params` does; `where` names their source in errors."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {_explain(fault)}" for fault in error.errors()]
        raise ValueError("\n".join(lines)) from None


def _explain(fault: ErrorDetails) -> str:
    """Say one fault as `key: what is allowed, got value`."""
    key = ".".join(_show_key(part) for part in fault["loc"]) or "the whole file"
    kind, given = fault["type"], _show(fault.get("input"))
    if kind == "missing":
        return f"{key} is missing; add it (`git show HEAD:params.yaml` has every key)"
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
    schema = Params.model_json_schema()
    node: Any = schema
    for part in location:
        node = _step(_resolve(node, schema), part)
    return sorted(_resolve(node, schema).get("properties", {}))


def _step(node: Any, part: int | str) -> Any:
    named = node.get("properties", {}).get(part)
    return named or node.get("additionalProperties") or node.get("items") or {}


def _resolve(node: Any, schema: Any) -> Any:
    """Follow a JSON schema's `$ref` to the definition that it names."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node
