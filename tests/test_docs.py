"""README.md and the other documents: generated parts are current, what they name is there."""

import ast
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from pipeline.environment import ROOT
from pipeline.params import Train, load_params
from tests.processes import run

TRACKED = set(run(ROOT, "git", "ls-files").stdout.splitlines())
DOCUMENTS = sorted(name for name in TRACKED if name.endswith(".md"))
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
# CHANGELOG.md tells of what was there before.
CURRENT = {name: text for name, text in TEXTS.items() if name != "CHANGELOG.md"}
# Made by commands, but not tracked and not an output of a stage.
MADE = (
    "report.html",
    "provenance.json",  # of a release
    "data/own/",  # of docs/own-pictures.md, as the next
    "shapes.py",
    "dvc_plots/",
    "consumers/c_api/onnxruntime",
    "consumers/.venv",
    ".run/",
    ".venv",
    ".dvc/",
)
OUTPUTS = {
    out if isinstance(out, str) else next(iter(out))
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    for out in [*stage["outs"], *stage.get("metrics", [])]
}


def test_what_cog_writes_is_current() -> None:
    # What shows the paper's run stays as it is where another configuration is committed.
    of_the_paper = load_params(ROOT / "params.yaml").train == Train()
    documents = [name for name in DOCUMENTS if of_the_paper or "docs_cog" not in TEXTS[name]]
    result = run(ROOT, sys.executable, "-m", "cogapp", "--check", "--diff", *documents)
    assert result.returncode == 0, (
        f"{result.stdout}{result.stderr}\nrun `python -m cogapp -r {' '.join(documents)}`"
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match("https?:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = ROOT / Path(name).parent / path if path else ROOT / name
        assert found.exists(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)", found.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in heads]


def test_tables_of_the_readmes_fit_100_columns() -> None:
    rows = [
        line
        for name in ("README.md", "README.ru.md")
        for line in TEXTS[name].splitlines()
        if line.startswith("|")
    ]
    assert len(rows) > 30
    assert [row for row in rows if len(row) > 100] == []


def test_the_program_in_readme_names_the_boot() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXTS["README.md"], re.M | re.S)
    printed = run(ROOT, sys.executable, "-c", code)
    assert printed.stdout.startswith("[array([9]"), printed.stderr


SAYING = "stages|pipeline|tasks|fashion_mlp|consumers/python|release|report"


def messages() -> str:
    """Collect every text in the code, `…` for what is filled in."""
    texts = []
    for name in filter(re.compile(rf"({SAYING})/.*\.py$").match, TRACKED):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return " ".join("\n".join(texts).split())


def test_troubleshooting_quotes_messages_that_the_code_has() -> None:
    items = re.split(r"^- (?=`)", TEXTS["docs/troubleshooting.md"], flags=re.M)[1:]
    heads = [item.split("`: ", 1)[0] + "`" for item in items]
    quoted = [
        one for head in heads for _, one in re.findall(r"(``?) ?([^`].*?) ?\1(?!`)", head, re.S)
    ]
    assert len(quoted) > 35
    known = messages()
    missing = [one for one in quoted if " ".join(one.split()) not in known]
    assert set(missing) <= FOREIGN


# Of DVC, the system and pydantic.
FOREIGN = {
    "No space left on device",
    "externally-managed-environment",
    "input should be greater than or equal to",
    "Some of the cache files do not exist",
    "failed to pull data",
    "No storage files available",
    "Unable to acquire lock",
    "missing; …",
    "added; …",
}


def test_environment_names_every_variable_that_the_code_reads() -> None:
    read = {"FASHION_MNIST_DIR", "MNIST_DIR"}
    for name in TRACKED:
        if re.match(r"(stages|pipeline|tasks|fashion_mlp|release|report|checks)/.*\.py$", name):
            code = (ROOT / name).read_text(encoding="utf-8")
            read |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", code))
            read |= set(re.findall(r"\"(FASHION_M[A-Z_]*[A-Z])\"", code))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    read |= set(re.findall(r"^override (\w+) :=", makefile, re.M))
    named = set(re.findall(r"`([A-Z_]{3,})`", TEXTS["docs/environment.md"]))
    assert read - named - INTERNAL == set()


# Set by DVC, make, the system, or a module for its own processes.
INTERNAL = {
    *("DVC_STAGE", "FASHION_MLP_CLEAN", "FASHION_MLP_ENGINE", "KERAS_BACKEND", "MAKECMDGOALS"),
    *("PATH", "TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS"),
}


def test_readme_leads_to_every_document() -> None:
    linked = set(re.findall(r"\]\(([^)\s]+)\)", TEXTS["README.md"]))
    assert set(DOCUMENTS) - linked - {"README.md"} == set()


@pytest.mark.parametrize("name", CURRENT)
def test_make_targets_that_are_named_are_there(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert len(targets) > 20
    named = re.findall(r"(?:`|^\$ |sudo )make ((?:[a-z][a-z-]* ?)*)", CURRENT[name], re.M)
    assert {target for targets_ in named for target in targets_.split()} <= set(targets)


@pytest.mark.parametrize("name", CURRENT)
def test_files_that_are_named_are_there(name: str) -> None:
    folders = {path.split("/")[0] for path in TRACKED if "/" in path} | {"data", "models"}
    among = "|".join(map(re.escape, sorted(folders)))
    paths = set(
        re.findall(rf"(?<![\w/.-])((?:{among})/[\w./-]*[\w/])(?![\w{{*<…-])", CURRENT[name])
    )
    paths |= set(re.findall(r"`([\w.-]+\.(?:py|md|yaml|json|lock|toml|cff))`", CURRENT[name]))
    named = {path for path in paths if "NAME" not in path}
    missing = {path for path in named if not is_there(path, Path(name).parent)}
    assert missing == set()


def is_there(path: str, base: Path) -> bool:
    """Whether a path is tracked, a folder of tracked files, an output of a stage, or made."""
    known = TRACKED | OUTPUTS
    names = {path.rstrip("/"), str(base / path)}
    return (
        any(it in known or any(one.startswith(f"{it}/") for one in known) for it in names)
        or path.startswith(MADE)
        or path in {Path(one).name for one in known}
    )


def test_every_fault_of_reliability_has_a_test_that_is_there() -> None:
    rows = re.findall(r"^\|(.+)\|(.*)\|(.*)\|$", TEXTS["docs/reliability.md"], re.M)
    named = [re.findall(r"(test_\w+\.py): (\w+)", tests) for _, _, tests in rows]
    assert sum(map(bool, named)) > 30
    for file, word in (pair for pairs in named for pair in pairs):
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def test_\w*{word}", text, re.M), f"{file}: {word}"
