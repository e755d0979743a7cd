"""The rules that keep the project readable and its results honest, held by reading the code."""

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.environment import ROOT
from pipeline.params import Params
from tests.processes import run

STAGES = ("fetch", "preprocess", "train", "evaluate", "export")
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# What each layer may import of ours: itself, and what is below.
LAYERS = {
    "pipeline": {"pipeline"},
    "fashion_mlp": {"fashion_mlp", "pipeline"},
    "stages": {"fashion_mlp", "pipeline"},
}
# What surrounds a stage reads parameters and shows progress; it computes nothing.
AROUND = {"pydantic", "pydantic_core", "ruamel", "tqdm", "yaml"}
# These of it keep files of their own, in .run/, which are no outputs.
KEEPERS = {"checkpoint.py", "guard.py", "records.py"}

# Declared dependencies that nothing imports: programs, plugins, and stubs that mypy reads.
PROGRAMS = {
    "cogapp", "dvc-s3", "dvc-ssh", "flask", "flask-cors", "model-signing", "mypy", "pyopenssl",
    "pytest-xdist",
    "ruamel-yaml-clib", "ruff", "types-psutil", "types-pyyaml", "types-requests", "types-tabulate",
    "types-tqdm", "uv",
}  # fmt: skip
# Modules that come with a package of another name, which pins or chooses them.
PARTS = {"asyncssh": "dvc-ssh", "boto3": "moto", "pydantic_core": "pydantic"}


LISTING = ("git", "ls-files", "--cached", "--others", "--exclude-standard")


def tracked(*patterns: str) -> list[Path]:
    """List the files that git tracks or would track."""
    listed = run(ROOT, *LISTING, *patterns).stdout.splitlines()
    assert listed
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def imports(path: Path) -> set[str]:
    """Name what a file imports, anywhere in it; `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def reached(path: Path) -> set[Path]:
    """List the files of ours that a file imports, and those that they import, and so on."""
    found: set[Path] = set()
    new = {path}
    while new:
        found |= new
        names = {name for known in new for name in imports(known)}
        files = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
        new = {file for file in files if file.is_file()} - found
    return found


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CORE = tracked(*(f"{layer}/*.py" for layer in LAYERS))
PYTHON = tracked("*.py")
OURS = {shown(path).split("/")[0] for path in PYTHON}  # the packages
each_stage = pytest.mark.parametrize("stage", STAGES)


def test_a_layer_imports_itself_and_what_is_below() -> None:
    for path in CORE:
        assert packages(path) & OURS <= LAYERS[shown(path).split("/")[0]], shown(path)


def test_what_surrounds_a_stage_computes_nothing_and_writes_no_output() -> None:
    for path in tracked("pipeline/*.py"):
        foreign = packages(path) - set(sys.stdlib_module_names) - OURS
        assert foreign <= AROUND, shown(path)
        formats = {"array", "csv", "gzip", "io", "struct", "zipfile", "zlib"}
        assert not packages(path) & formats, shown(path)
        calls = [node.func for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        named = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        writes = {"write_bytes", "write_text", "writelines", "dump", "dumps"}
        assert path.name in KEEPERS or not named & writes, shown(path)


def test_no_stage_loads_tensorflow_when_it_is_imported() -> None:
    stages = ", ".join(f"stages.{stage}" for stage in STAGES)
    code = f"import sys, {stages}; print(*sys.modules)"
    result = run(ROOT, sys.executable, "-c", code)
    # Not even train: it starts TensorFlow when it has checked its input.
    assert not set(result.stdout.split()) & {"tensorflow", "keras", "tf2onnx", "jax"}
    assert result.stderr == ""
    for path in reached(ROOT / "stages/fetch.py") | reached(ROOT / "stages/preprocess.py"):
        assert not packages(path) & {"tensorflow", "keras"}  # nor later


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those in an `if` too."""
    for node in body:
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if test not in ("TYPE_CHECKING", "__name__ == '__main__'"):
                yield from statements(node.body + node.orelse)
        else:
            yield node


# Calls that make a value and do nothing else.
VALUES = (
    r"(Path|Path\(__file__\)\.resolve|Annotated|BeforeValidator|AfterValidator|Field|ConfigDict"
    r"|frozenset|re\.compile|np\.\w+|reprlib\.Repr|float|LinearSegmentedColormap\.from_list|Epoch"
    r"|Activation|Precision)"
)


def test_nothing_happens_at_import() -> None:
    definitions = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    for path, node in ((it, node) for it in CORE for node in statements(parse(it).body)):
        at = f"{shown(path)}:{node.lineno}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            assert all(re.fullmatch(VALUES, ast.unparse(call.func)) for call in calls), at
        else:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert docstring or isinstance(node, definitions), at


@each_stage
def test_dvc_yaml_lists_exactly_the_modules_that_decide_a_stages_result(stage: str) -> None:
    listed = {dep for dep in DVC[stage].get("deps", []) if dep.endswith(".py")}
    found = {shown(path) for path in reached(ROOT / f"stages/{stage}.py")}
    if stage == "fetch":  # whose content's hash decides
        found = set()
    assert listed == {name for name in found if not name.startswith("pipeline/")}


PROPERTIES = {"pixels": "image_shape", "names": "class_names"}  # of a section: what each is of
OF_ALL = {".measured": {"evaluate.test", "preprocess.validation_images"}}  # and what each reads


def as_key(names: str) -> str:
    """Take the part of `.train.epochs.something` that is a key of params.yaml."""
    section: Any = Params
    key = []
    for name in names[1:].split("."):
        name = PROPERTIES.get(name, name)
        if name not in getattr(section, "model_fields", {}):
            break
        key.append(name)
        section = section.model_fields[name].annotation
    return ".".join(key)


def parameters(stage: str) -> set[str]:
    """List the keys of params.yaml that a stage reads: in main() and in what takes all of it."""
    functions = [
        ast.unparse(node)
        for node in parse(ROOT / f"stages/{stage}.py").body
        if isinstance(node, ast.FunctionDef)
        if node.name == "main" or "params: Params" in ast.unparse(node.args)
    ]
    code = "\n".join(functions)
    (prefix,) = re.findall(r"params = load_params\(\)((?:\.\w+)*)", code)
    read = re.findall(r"\bparams((?:\.\w+)+)", code)
    keys = (OF_ALL.get(names) or {as_key(prefix + names)} for names in read)
    return set().union(*keys) - {""}


# The content's hash decides, wherever it came from and however long that took.
WITHOUT_EFFECT = {"fetch.sources", "fetch.timeout"}


@each_stage
def test_dvc_yaml_lists_the_parameters_that_a_stage_reads(stage: str) -> None:
    listed = set(DVC[stage]["params"])
    read = parameters(stage) - WITHOUT_EFFECT
    assert read
    for key in read:
        assert any(f"{key}.".startswith(f"{name}.") for name in listed), f"{key} is not listed"
    for name in listed:
        assert any(f"{key}.".startswith(f"{name}.") for key in read), f"{name} is not read"
    # All of `dataset` only where class names are read: renaming a class trains nothing again.
    names = "dataset.class_names."
    reads_names = any(f"{key}.".startswith(names) or names.startswith(f"{key}.") for key in read)
    assert ("dataset" in listed) == reads_names


@each_stage
def test_a_stage_is_run_by_its_name_and_says_what_it_reads_and_writes(stage: str) -> None:
    assert list(DVC) == list(STAGES)
    assert DVC[stage]["cmd"] == f"python -m stages.{stage}"
    docstring = ast.get_docstring(parse(ROOT / f"stages/{stage}.py")) or ""
    assert docstring.startswith(f"{stage}: ")
    assert "\nreads   " in docstring
    assert "\nwrites  " in docstring


def is_unsafe(node: ast.AST) -> bool:
    """Tell what could run code that a file brings, and asserts, which `python -O` leaves out."""
    match node:
        case ast.Assert():
            return True
        case ast.keyword(arg="allow_pickle" | "safe_mode" as name, value=value):
            return ast.unparse(value) != str(name == "safe_mode")
        case ast.Call() if re.fullmatch(r"(np|numpy)\.load", ast.unparse(node.func)):
            return "allow_pickle" not in {keyword.arg for keyword in node.keywords}
        case ast.Attribute() | ast.Name():
            return bool(re.search(UNSAFE, ast.unparse(node)))
    return False


UNSAFE = r"^(yaml\.(load|unsafe_load|full_load)|eval|exec)$|enable_unsafe_deserialization"


def test_nothing_unpickles_or_asserts() -> None:
    pickles = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for path in PYTHON:
        if not shown(path).startswith("tests/"):  # they make what must be refused
            assert not packages(path) & pickles, shown(path)
            found = {ast.unparse(node) for node in ast.walk(parse(path)) if is_unsafe(node)}
            # Examples are short: NumPy's default is to refuse pickles.
            short = {"np.load(options.images)"} if path.name == "classify.py" else set()
            assert found <= short, shown(path)


def test_no_file_names_a_registrys_host() -> None:
    hosts = ["pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org"]
    hosts += ["deb.debian" + ".org", "registry.yarnpkg" + ".com", "crates" + ".io"]
    for path in tracked():
        content = path.read_bytes()
        found = [host for host in hosts if host.encode() in content]
        assert not found, f"{path.relative_to(ROOT)} names {found}"


def test_text_files_end_lines_with_lf() -> None:
    lines = run(ROOT, *LISTING, "--eol").stdout.splitlines()
    assert len(lines) > 30
    assert not [line for line in lines if re.search(r"[iw]/(crlf|mixed)", line)]


def normal(names: list[str]) -> set[str]:
    """Take the names of requirements, as registries write them."""
    found = (re.split(r"[<>=~!;\[ ]", entry)[0].lower() for entry in names)
    return {re.sub("[_.]", "-", name) for name in found}


RUN = normal(PROJECT["project"]["dependencies"])
DEVELOP = normal(PROJECT["dependency-groups"]["dev"])


def test_dependencies_are_declared_and_used() -> None:
    local = {path.name for path in ROOT.iterdir()} | {path.stem for path in PYTHON}
    # These are for other environments, as are consumers/requirements.in and its like.
    elsewhere = ("classify.py", "jax_scan.py", "one_epoch.py", "pytorch_loop.py")
    providers = {
        module: normal(distributions)
        for module, distributions in importlib.metadata.packages_distributions().items()
    } | {module: {distribution} for module, distribution in PARTS.items()}
    used: set[str] = set()
    for path in PYTHON:
        if path.name in elsewhere:
            continue
        allowed = RUN if path in CORE else RUN | DEVELOP
        for module in packages(path) - set(sys.stdlib_module_names) - local:
            names = providers.get(module, {module})  # it may not be installed yet
            assert names & allowed, f"{shown(path)} imports {module}, not declared"
            used |= names
    assert used >= (RUN | DEVELOP) - PROGRAMS
    assert PROGRAMS <= RUN | DEVELOP


@pytest.mark.parametrize("folder", ["", "consumers/", "benchmarks/"])
def test_a_lock_has_hashes_and_what_is_declared(folder: str) -> None:
    lock = (ROOT / f"{folder}requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\w)", lock)
    assert all("--hash=sha256:" in entry for entry in entries)
    source = ROOT / f"{folder}requirements.in"
    declared = normal(re.findall(r"^\w\S*", source.read_text(), re.M)) if folder else RUN | DEVELOP
    assert normal(entries) >= declared
