"""A release of a small repository: laid out, signed, and tampered with in every way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from fashion_mlp.formats import write_json, write_text
from pipeline.environment import ROOT
from pipeline.files import md5
from release.__main__ import build, sign
from release.layout import PAGE_MODEL, SIGNATURE, STATEMENT, SUMS, hashes, sums
from release.verify import folder_md5, main, verify
from tasks.presets import apply
from tests.processes import git, record

PRESET = ("params.yaml", "presets/accurate.yaml")
MODELS = ("fashion_mlp.onnx", "fashion_mlp_uint8.onnx", "fashion_mlp_exact.onnx")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit with this project's results and small files in place of models and page."""
    root = tmp_path_factory.mktemp("release") / "project"
    for name in ("metrics", "plots"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("LICENSE", "dvc.lock", "requirements.lock", "models/labels.json", *PRESET):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    made = {f"models/{name}": f"the model {name}" for name in MODELS}
    made |= {"models/test_data_set_0/input_0.pb": "input", "models/fashion_mlp.keras": "keras"}
    web = {"index.html": "<p>", "page.js": "//", "prepare.py": "#", "vendor/page.json": "{}"}
    web["vendor/model.onnx"] = made[f"models/{MODELS[2]}"]
    for name, text in (made | {f"consumers/web/{it}": text for it, text in web.items()}).items():
        write_text(root / name, text)
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    for out in (out for stage in lock["stages"].values() for out in stage["outs"]):
        if (root / out["path"]).is_file():
            out["md5"] = md5(root / out["path"])
        elif (root / out["path"]).is_dir():
            out["md5"] = folder_md5(root / out["path"])
    write_text(root / "dvc.lock", yaml.safe_dump(lock))
    write_text(root / ".gitignore", "/models/*\n!/models/labels.json\n/consumers/web/vendor/\n")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "state"]):
        git(root, *arguments)
    return root


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    found: dict[str, str] = {}
    for name in ("ours", "other"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        curve = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"]
        subprocess.run([*curve, "-out", str(private)], check=True)
        make_public = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
        subprocess.run(make_public, check=True, capture_output=True)
        found |= {name: str(private), f"{name} public": str(public)}
    return found


@pytest.fixture(scope="module")
def signed(project: Path, keys: dict[str, str]) -> Path:
    folder = project.with_name("dist")
    build(project, folder)
    sign(folder, keys["ours"])
    return folder


@pytest.fixture
def dist(signed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed, tmp_path / "dist")


def test_a_release_has_what_it_should_and_is_verified(
    dist: Path, project: Path, keys: dict[str, str]
) -> None:
    page = {f"page/{it}" for it in ("index.html", "page.js", PAGE_MODEL[5:], "vendor/page.json")}
    models = {*MODELS, "labels.json", "test_data_set_0/input_0.pb"}
    described = {"LICENSE", "README.md", STATEMENT}
    assert set(hashes(dist, {SUMS, SIGNATURE})) == page | models | described
    head = git(project, "rev-parse", "HEAD").strip()
    assert verify(dist, keys["ours public"], project) == ([], head)
    tool = ["sha256sum"] if shutil.which("sha256sum") else ["shasum", "-a", "256"]  # macOS
    checked = subprocess.run([*tool, "--quiet", "-c", SUMS], cwd=dist, check=False)
    assert checked.returncode == 0
    front = (dist / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    metrics = json.loads((project / "metrics/evaluate.json").read_text())
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": metrics["test_accuracy"]}]


def test_a_release_is_the_same_bytes_again(signed: Path, project: Path, tmp_path: Path) -> None:
    build(project, tmp_path / "again")
    assert hashes(tmp_path / "again", set()) == hashes(signed, {SIGNATURE})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def at(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    """Make a tampering that changes one path."""
    return lambda dist: change(dist / name)


def restate(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Make a tampering that changes what is stated, and writes SHA256SUMS anew."""

    def tamper(dist: Path) -> None:
        stated = json.loads((dist / STATEMENT).read_text(encoding="utf-8"))
        change(stated)
        write_json(dist / STATEMENT, stated)
        write_text(dist / SUMS, sums(dist))

    return tamper


def redefine(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return restate(lambda stated: change(stated["predicate"]["buildDefinition"]))


def forge(dist: Path, name: str, change: Callable[[Path], object] | None = None) -> None:
    """Change a file, add one or remove one, and state of the files what is now true."""
    path = dist / name
    (change or (flip if path.exists() else Path.touch))(path)
    found = hashes(dist, {SUMS, SIGNATURE, STATEMENT})
    subjects = [{"name": name, "digest": {"sha256": digest}} for name, digest in found.items()]
    restate(lambda stated: stated.update(subject=subjects))(dist)


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """Make a tampering that edits SHA256SUMS, or a file and then SHA256SUMS for it."""

    def tamper(dist: Path) -> None:
        write_text(dist / name, change((dist / name).read_text(encoding="utf-8")))
        if name != SUMS:
            write_text(dist / SUMS, sums(dist))

    return tamper


def forget(path: Path) -> None:
    """Remove a file, and its folder where it is the last one there."""
    path.unlink()
    if not list(path.parent.iterdir()):
        path.parent.rmdir()


def link(dist: Path) -> None:
    (dist / "labels.json").rename(dist.with_name("elsewhere"))
    (dist / "labels.json").symlink_to(dist.with_name("elsewhere"))


def swap(dist: Path) -> None:
    (dist / MODELS[0]).rename(dist.with_name("aside"))
    (dist / MODELS[1]).rename(dist / MODELS[0])
    dist.with_name("aside").rename(dist / MODELS[1])


FILES = ("README.md", "LICENSE", *MODELS, "labels.json", "test_data_set_0/input_0.pb")
PAGE = ("page/index.html", "page/vendor/page.json")
GONE = (MODELS[2], "page/page.js", "README.md", STATEMENT, SUMS)
FORGED = (*FILES, "page/page.js", "page/new.js", "test_data_set_0/input_1.pb")
TAMPERINGS: dict[str, Callable[[Path], object]] = {
    **{f"a bit of {name}": at(name, flip) for name in (*FILES, *PAGE, STATEMENT, SUMS)},
    **{f"no {name}": at(name, Path.unlink) for name in GONE},
    "a byte more": lambda dist: (dist / MODELS[0]).open("ab").write(b"\0"),
    "a file more": at("page/new.js", Path.touch),
    "a hidden file": at(".hidden", Path.touch),
    "an empty folder": at("folder", Path.mkdir),
    "a link": link,
    "two files swapped": swap,
    "another name": lambda dist: (dist / MODELS[0]).rename(dist / "model.onnx"),
    "a line of SHA256SUMS less": edit(SUMS, lambda it: it.split("\n", 1)[1]),
    "a line of SHA256SUMS twice": edit(SUMS, lambda it: it + it.split("\n")[0]),
    "an empty line in SHA256SUMS": edit(SUMS, lambda it: it + "\n"),
    "SHA256SUMS in another order": edit(
        SUMS, lambda it: "".join(sorted(it.splitlines(keepends=True), reverse=True))
    ),
    "SHA256SUMS with CR LF": lambda dist: (dist / SUMS).write_bytes(
        (dist / SUMS).read_bytes().replace(b"\n", b"\r\n")
    ),
    "a path out of the release": edit(SUMS, lambda it: it + f"{0:064}  ../x\n"),
    **{f"a forged {name}": partial(forge, name=name) for name in FORGED},
    **{
        f"a forged release without {name}": partial(forge, name=name, change=forget)
        for name in (*FILES, "page/page.js", PAGE_MODEL)
    },
    "other commands": redefine(lambda it: it["externalParameters"]["commands"].append("make")),
    "other parameters": redefine(
        lambda it: it["externalParameters"]["params"]["train"].update(seed=1)
    ),
    "other data": redefine(
        lambda it: it["resolvedDependencies"][1]["digest"].update(sha256=f"{0:064}")
    ),
    "another version": redefine(
        lambda it: it["resolvedDependencies"][-1].update(uri="pkg:pypi/numpy@1.0.0")
    ),
    "an option for a commit": redefine(
        lambda it: it["resolvedDependencies"][0]["digest"].update(gitCommit="--output=HEAD")
    ),
    "a name for a commit": redefine(
        lambda it: it["resolvedDependencies"][0]["digest"].update(gitCommit="HEAD")
    ),
    "something more stated": restate(lambda it: it.update(note="trust me")),
    "a statement with spaces": edit(STATEMENT, lambda it: it + " "),
    "a key twice": edit(STATEMENT, lambda it: it.replace("{", '{"_type": "x",', 1)),
    "a statement too deep to read": edit(STATEMENT, lambda _: "[" * 100_000),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_refused_without_the_signature(
    name: str, dist: Path, project: Path
) -> None:
    TAMPERINGS[name](dist)
    try:
        faults, _ = verify(dist, "", project)
    except (ValueError, OSError):
        return
    assert faults


def test_what_is_forged_beyond_the_commit_is_refused_by_the_signature(
    dist: Path, project: Path, keys: dict[str, str]
) -> None:
    (_, *_), _ = verify(dist, keys["other public"], project)
    forge(dist, "page/vendor/page.json")
    assert verify(dist, "", project)[0] == []
    (fault,), _ = verify(dist, keys["ours public"], project)
    assert fault.startswith("model.sig: not by ")
    (dist / SIGNATURE).unlink()
    (fault,), _ = verify(dist, keys["ours public"], project)
    assert fault.startswith("model.sig: missing")


def test_a_fault_names_the_file_and_both_hashes(dist: Path, project: Path) -> None:
    flip(dist / "labels.json")
    (fault,), _ = verify(dist, "", project)
    assert fault.startswith("labels.json: changed: expected SHA-256 ")


@pytest.mark.parametrize("name", [b"\xff", b"\x1b[2K\rgood", b"two\nlines"])
def test_a_files_name_cannot_hide_that_it_was_added(
    name: bytes,
    dist: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (dist / os.fsdecode(name)).touch()
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["verify-release", str(dist)])
    assert main() == 1
    output, _ = capfd.readouterr()
    assert f"REFUSED: {ascii(os.fsdecode(name))[1:-1]}: added; " in output


def test_a_key_alone_is_no_release(
    keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify-release", keys["ours public"]])
    assert main() == 2
    assert "say which: make verify-release DIR=dist" in capsys.readouterr().err


def test_the_workflow_leaves_no_key_where_the_release_fails(tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name") == "make release"]
    env = os.environ | {"RUNNER_TEMP": str(tmp_path), "SIGNING_KEY": "key"}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=env, check=False)
    assert done.returncode != 0  # there is no Makefile
    assert list(tmp_path.iterdir()) == []


def test_build_refuses_what_is_not_committed(project: Path, tmp_path: Path) -> None:
    (project / "new").write_text("")
    try:
        with pytest.raises(ValueError, match=r"^new is not as in the commit"):
            build(project, tmp_path / "dist")
    finally:
        (project / "new").unlink()
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_build_refuses_what_git_was_told_to_overlook(
    flag: str, project: Path, tmp_path: Path
) -> None:
    before = (project / "LICENSE").read_bytes()
    git(project, "update-index", flag, "LICENSE")
    (project / "LICENSE").write_text("none")
    try:
        with pytest.raises(ValueError, match=r"^LICENSE is not as in the commit"):
            build(project, tmp_path / "dist")
    finally:
        (project / "LICENSE").write_bytes(before)
        git(project, "update-index", flag.replace("--", "--no-"), "LICENSE")


@pytest.fixture
def accurate(project: Path) -> Iterator[Callable[..., None]]:
    """Record an experiment `accurate`, with changes to what its dvc.lock says of stage train."""
    made: list[str] = []

    def save(**changes: Any) -> None:
        apply(project / PRESET[1], project)
        values = yaml.safe_load((project / PRESET[0]).read_text(encoding="utf-8"))
        lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))
        for entry in lock["stages"].values():
            recorded = entry["params"]["params.yaml"]
            recorded |= {"train": values["train"]} if "train" in recorded else {}
        lock["stages"]["train"] |= changes
        write_text(project / "dvc.lock", yaml.safe_dump(lock))
        content = (project / f"models/{MODELS[2]}").read_text(encoding="utf-8")
        git(project, "add", "--force", f"models/{MODELS[2]}")
        made.append(record(project, "accurate"))
        write_text(project / f"models/{MODELS[2]}", content)  # not in git otherwise

    yield save
    for ref in made:
        git(project, "update-ref", "-d", ref)


def test_a_release_has_the_exact_model_of_the_preset_accurate(
    accurate: Callable[..., None], project: Path, tmp_path: Path
) -> None:
    accurate()
    build(project, tmp_path / "dist")
    got = (tmp_path / f"dist/recipes/accurate/{MODELS[2]}").read_bytes()
    assert got == (project / f"models/{MODELS[2]}").read_bytes()
    assert "preset `accurate`" in (tmp_path / "dist/README.md").read_text(encoding="utf-8")
    assert verify(tmp_path / "dist", "", project)[0] == []
    forge(tmp_path / "dist", "recipes/accurate/metrics.json", lambda path: write_text(path, "5"))
    with pytest.raises(ValueError, match="not metrics"):
        verify(tmp_path / "dist", "", project)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"params": {"params.yaml": {"train": {"epochs": 1}}}},
            "train.epochs 1, and presets/accurate.yaml has 570",
        ),
        ({"deps": [{"path": "stages/train.py", "md5": "0"}]}, "stage train had other code"),
        (
            {"outs": [{"path": "metrics/train.json", "md5": "0"}]},
            "metrics/train.json is not what its dvc.lock records",
        ),
    ],
)
def test_build_refuses_an_experiment_that_is_not_what_the_preset_makes(
    changes: Any, says: str, accurate: Callable[..., None], project: Path, tmp_path: Path
) -> None:
    accurate(**changes)
    with pytest.raises(ValueError, match=f"^experiment accurate: {says}.*`make recipe NAME=accur"):
        build(project, tmp_path / "dist")
