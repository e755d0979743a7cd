"""The rules that keep the project readable and its results honest, held by reading the code."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

STAGES = ("fetch", "preprocess", "train", "evaluate", "export")
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))

# Declared dependencies that nothing imports: programs, and stubs that mypy reads.
PROGRAMS = {
    "mypy", "pytest-xdist", "ruamel-yaml-clib", "ruff", "types-pyyaml", "types-tqdm", "uv",
}  # fmt: skip
# Parts of a package that come with it, at a version that it pins.
PARTS = {"pydantic-core": "pydantic"}


def tracked(*patterns: str) -> list[Path]:
    """List the files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in result.stdout.splitlines() if (ROOT / name).is_file()]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


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


def ours(path: Path) -> set[Path]:
    """List the files of ours that a file imports."""
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in imports(path)}
    return {file for file in files if file.is_file()}


def reached(path: Path) -> set[Path]:
    """List the files of ours that a file imports, and those that they import, and so on."""
    found: set[Path] = set()
    new = {path}
    while new:
        found |= new
        new = {file for known in new for file in ours(known)} - found
    return found


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


CORE = [*tracked("stages/*.py"), *tracked("fashion_mlp/*.py")]
ids = pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))


def test_core_is_found() -> None:
    assert {path.stem for path in CORE} >= {*STAGES, "params", "idx", "network"}


@ids
def test_a_stage_never_imports_a_stage(path: Path) -> None:
    assert "stages" not in packages(path)


@ids
def test_the_core_never_imports_what_leans_on_it(path: Path) -> None:
    assert not packages(path) & {"tests", "checks", "benchmarks", "consumers", "report"}


@ids
def test_only_export_imports_onnx(path: Path) -> None:
    if path.name not in ("export.py", "proof.py"):
        assert not packages(path) & {"onnx", "onnxruntime", "tf2onnx"}


def test_the_proof_is_exports_alone() -> None:
    users = [path.name for path in CORE if "fashion_mlp.proof" in imports(path)]
    assert set(users) <= {"export.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_stages_that_compute_load_tensorflow(stage: str) -> None:
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Not even train: it starts TensorFlow when it has checked its input.
    assert not set(result.stdout.split()) & {"tensorflow", "keras", "tf2onnx", "jax"}
    assert result.stderr == ""


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
    r"(Path|Annotated|BeforeValidator|Field|ConfigDict|frozenset|re\.compile|np\.\w+|reprlib\.Repr"
    r"|float|Epoch|LinearSegmentedColormap\.from_list|Activation)"
)


@ids
def test_nothing_happens_at_import(path: Path) -> None:
    for node in statements(parse(path).body):
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{path}:{node.lineno} does something"
            continue
        definitions = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        assert isinstance(node, definitions | ast.Assign | ast.AnnAssign), f"{path}:{node.lineno}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            for call in calls:
                assert re.fullmatch(VALUES, ast.unparse(call.func)), f"{path}:{node.lineno}"


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_exactly_the_modules_that_a_stage_imports(stage: str) -> None:
    listed = {dep for dep in DVC["stages"][stage]["deps"] if dep.endswith(".py")}
    found = {path.relative_to(ROOT).as_posix() for path in reached(ROOT / f"stages/{stage}.py")}
    assert listed == {name for name in found if not name.endswith("__init__.py")}


@pytest.mark.parametrize("package", ["stages", "fashion_mlp"])
def test_a_package_itself_holds_no_code(package: str) -> None:
    (docstring,) = parse(ROOT / package / "__init__.py").body
    assert isinstance(docstring, ast.Expr)


def chain(node: ast.expr) -> list[str]:
    """Take `a.b.c` or `a().b.c` apart."""
    if isinstance(node, ast.Attribute):
        return [*chain(node.value), node.attr]
    if isinstance(node, ast.Call):
        return chain(node.func)
    return [node.id] if isinstance(node, ast.Name) else []


def parameters(stage: str) -> set[str]:
    """List the keys of params.yaml that a stage's main() reads, as deep as it says."""
    (main,) = (
        node
        for node in parse(ROOT / f"stages/{stage}.py").body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    (load,) = (
        node
        for node in ast.walk(main)
        if isinstance(node, ast.Assign) and chain(node.value)[:1] == ["load_params"]
    )
    prefix = chain(load.value)[1:]
    read = [chain(node) for node in ast.walk(main) if isinstance(node, ast.Attribute)]
    keys = {".".join([*prefix, *names[1:]]) for names in read if names[:1] == ["params"]}
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_the_parameters_that_a_stage_reads(stage: str) -> None:
    listed = set(DVC["stages"][stage]["params"])
    read = parameters(stage)
    assert read
    for key in read:
        assert any(f"{key}.".startswith(f"{name}.") for name in listed), f"{key} is not listed"
    for name in listed:
        assert any(f"{key}.".startswith(f"{name}.") for key in read), f"{name} is not read"


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_runs_each_stage_by_its_name(stage: str) -> None:
    assert list(DVC["stages"]) == list(STAGES)
    assert DVC["stages"][stage]["cmd"] == f"python -m stages.{stage}"
    assert f"stages/{stage}.py" in DVC["stages"][stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_docstring_lists_what_it_reads_and_writes(stage: str) -> None:
    docstring = ast.get_docstring(parse(ROOT / f"stages/{stage}.py")) or ""
    assert docstring.startswith(f"{stage}: ")
    assert "\nreads   " in docstring
    assert "\nwrites  " in docstring


PYTHON = tracked("*.py")


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    if path.is_relative_to(ROOT / "tests"):
        return  # which make what must be refused
    assert not packages(path) & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    if path.name == "classify.py":
        return  # examples, short: NumPy's default is to refuse
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "safe_mode"):
            expected = node.arg == "safe_mode"
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is expected, f"{path}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle" in {keyword.arg for keyword in node.keywords}
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            assert name not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")
            assert "enable_unsafe_deserialization" not in name


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_assert_is_for_tests(path: Path) -> None:
    if not path.is_relative_to(ROOT / "tests"):
        assert not [node for node in ast.walk(parse(path)) if isinstance(node, ast.Assert)]


def test_no_file_names_a_registrys_host() -> None:
    hosts = ["pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org"]
    hosts += ["deb.debian" + ".org", "registry.yarnpkg" + ".com", "crates" + ".io"]
    for path in tracked():
        content = path.read_bytes()
        found = [host for host in hosts if host.encode() in content]
        assert not found, f"{path.relative_to(ROOT)} names {found}"


def test_text_files_end_lines_with_lf() -> None:
    command = ["git", "ls-files", "--eol", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) > 30
    assert not [line for line in lines if re.search(r"[iw]/(crlf|mixed)", line)]


def requirement_names(requirements: list[str]) -> set[str]:
    names = (re.split(r"[<>=~!;\[ ]", entry)[0].lower() for entry in requirements)
    return {re.sub("[_.]", "-", name) for name in names}


def test_dependencies_are_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    core = requirement_names(project["project"]["dependencies"])
    dev = requirement_names(project["dependency-groups"]["dev"])
    local = {path.name for path in ROOT.iterdir() if path.is_dir()}
    local |= {path.stem for path in PYTHON}
    distributions = importlib.metadata.packages_distributions()

    def used(paths: list[Path]) -> set[str]:
        modules = set().union(*(packages(path) for path in paths))
        modules -= set(sys.stdlib_module_names) | local
        names = {distributions[module][0].lower().replace("_", "-") for module in modules}
        return {PARTS.get(name, name) for name in names}

    assert used(CORE) <= core, "the core imports what is not declared for it"
    # These are for other environments: consumers/requirements.in, benchmarks/requirements.in.
    elsewhere = ("classify.py", "jax_scan.py", "pytorch_loop.py")
    here = [path for path in PYTHON if path.name not in elsewhere]
    assert core | dev == used(here) | PROGRAMS
    assert not used(here) & PROGRAMS


def test_the_lock_holds_every_declared_dependency_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    entries = re.split(r"\n(?=\w)", lock)
    assert all("--hash=sha256:" in entry for entry in entries)
    locked = requirement_names(entries)
    declared = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    assert requirement_names(declared) <= locked
