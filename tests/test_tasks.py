"""`make`, `make heal` and `make recipe` with real DVC, git and processes, on a tiny project."""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from checks.hostile import write_hostile
from checks.sandbox import edited
from pipeline.environment import ROOT
from pipeline.params import PARAMS_FILE, Train, check_params
from tasks.presets import apply, assign
from tasks.repair import is_dvc
from tests.tiny import Tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The project after a run, committed."""
    tiny = Tiny(tmp_path_factory.mktemp("tasks"))
    tiny.good("make")
    tiny.commit()
    return tiny


@pytest.fixture
def tiny(finished: Tiny) -> Iterator[Tiny]:
    """The same for each test: what one leaves is undone by the next, in the same place."""
    keep = finished.folder.with_name("keep")
    if not keep.exists():
        shutil.copytree(finished.folder, keep, symlinks=True)
    yield finished
    shutil.rmtree(finished.folder)
    shutil.copytree(keep, finished.folder, symlinks=True)


def test_make_again_runs_nothing_and_reads_no_output_again(tiny: Tiny) -> None:
    tiny.good("make")
    seen = (tiny.folder / ".run/verified.json").stat().st_mtime_ns
    output = tiny.good("make")
    assert "Running stage" not in output
    assert output.startswith("make: dvc repro\n")
    assert (tiny.folder / ".run/verified.json").stat().st_mtime_ns == seen
    assert tiny.good("git", "status", "--porcelain") == ""


def test_what_is_printed_to_a_full_disk_is_one_line_of_error(tiny: Tiny) -> None:
    status, output = tiny.run("sh", "-c", "make >/dev/full")
    assert status != 0
    first, _ = output.splitlines()  # the other is make's own
    assert first == ("make: a file, or standard output: No space left on device; free some space")


WRONG = {  # one of the schema, one of Keras, one of what is counted
    "train.epochs": (0, "train.epochs: input should be greater than or equal to 1; got 0"),
    "train.optimizer.class_name": ("Sgd", "train.optimizer.class_name: expected one of Adadelta,"),
    "preprocess.validation_images": (
        60000, "preprocess.validation_images: must be below 60,000, the number of training images"
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_refused_before_dvc_removes_anything(tiny: Tiny, key: str) -> None:
    shutil.copytree(ROOT / "fashion_mlp", tiny.folder / "fashion_mlp", dirs_exist_ok=True)
    good, (value, says) = tiny.results(), WRONG[key]
    values = yaml.safe_load((tiny.folder / "params.yaml").read_text())
    wrong = edited(values, {key: value})
    (tiny.folder / "params.yaml").write_text(yaml.safe_dump(wrong, allow_unicode=True))
    status, output = tiny.run("make")
    assert status != 0
    assert output.startswith(f"make: params.yaml: {says}")
    assert output.splitlines()[0].endswith("; nothing was run")
    assert tiny.results() == good


def test_make_ends_with_what_was_made_and_what_is_next(tiny: Tiny) -> None:
    for name, text in (
        ("metrics/evaluate.json", '{"test_accuracy": 0.86861}'),
        ("metrics/kept.json", '{"test_accuracy": 0.9}'),  # somebody's copy of another run's
        ("models/a.onnx", ""),
    ):
        (tiny.folder / name).parent.mkdir(exist_ok=True)
        (tiny.folder / name).write_text(text)
    made, following = tiny.good("make").splitlines()[-2:]
    assert made == "make: test_accuracy 0.8686, models/a.onnx, pictures in plots/"
    assert following.startswith("make: next: `make report`")


def test_a_damaged_cache_object_does_not_replace_a_fresh_output(tiny: Tiny) -> None:
    good = tiny.results()
    for name in ("models/model", "data/raw"):
        tiny.damage(tiny.cached(name))
        tiny.damage(tiny.cached(name), b"")  # as after a power cut
    for name in ("models/model", "metrics/train.json"):
        (tiny.folder / name).unlink()
    shutil.rmtree(tiny.folder / ".dvc/cache/runs")
    output = tiny.good("make")
    assert "Running stage 'train'" in output
    assert re.search(r"heal: removed models/model: expected MD5 \w+, got d41d8cd9", output)
    assert tiny.results() == good
    tiny.damage(tiny.cached("models/model"))  # which no stage reads now
    assert re.search(r"heal: removed \S+/cache/files/md5/\S+: expected", tiny.good("make", "heal"))
    assert "heal: none of the 4 outputs of dvc.lock is damaged" in tiny.good("make", "heal")


def test_an_edit_that_keeps_size_and_time_is_found(tiny: Tiny) -> None:
    good, path = tiny.results(), tiny.folder / "models/model"
    tiny.good("make")  # so that DVC has seen this file
    before = path.stat()
    tiny.damage(path, path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "heal: removed models/model: expected MD5" in tiny.good("make")
    assert tiny.results() == good


@pytest.mark.parametrize("setting", ["core.no_scm", "core.hardlink_lock", "hydra.enabled"])
def test_a_users_settings_of_dvc_stop_no_experiment(tiny: Tiny, setting: str) -> None:
    section, key = setting.split(".")
    path = tiny.folder.parent / ".config/dvc/config"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[{section}]\n    {key} = true\n")
    try:
        tiny.good("make", "recipe", "NAME=quick")
    finally:
        path.unlink()


def test_a_damaged_listing_does_not_run_its_stage_for_ever(tiny: Tiny) -> None:
    good = tiny.results()
    tiny.damage(tiny.cached("models/set"))
    shutil.rmtree(tiny.folder / "models")
    assert "a listing whose MD5 is not its name" in tiny.good("make")
    assert tiny.results() == good
    assert "Running stage" not in tiny.good("make")


DATABASES = ".run/dvc/repo/*/*/**/cache.db"
# One at a time they were tried as well, as each file of .dvc and .run was; together they cost less.
# By what a shell does to each of some files.
STATES = {
    "garbage": (
        r"mkdir -p $(dirname $it); printf '\377\000{garbage' > $it",
        (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock", "dvc.lock", ".dvc/cache/runs/*/*/*", DATABASES,
         ".run/verified.json"),
    ),
    "an empty dvc.lock": (": > $it", ("dvc.lock",)),
    "a key of dvc.lock": ("sed -i.bak s/outs:/ouus:/ $it", ("dvc.lock",)),
    # DVC compares it with nothing.
    "a size in dvc.lock": ("sed -i.bak 's/size: [0-9]/size: 9/' $it", ("dvc.lock",)),
    "a hash's name": ("sed -i.bak 's/hash: md5/hash: md4/' $it", ("dvc.lock",)),
    "folders": (
        "rm -f $it; mkdir -p $it",
        (".dvc/tmp/rwlock", ".dvc/tmp/rwlock.lock", "dvc.lock", DATABASES, ".run/lock",
         ".run/checkpoint", ".run/by_hand.json", ".run/verified.json"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("forged", ["path: {victim}\n", "md5: 00{victim}\n"])
def test_heal_removes_nothing_that_dvc_yaml_does_not_name(
    forged: str, tiny: Tiny, tmp_path: Path
) -> None:
    good, lock, victim = tiny.results(), tiny.folder / "dvc.lock", tmp_path / "thesis.txt"
    victim.write_text("years of work")
    kind, text = forged.partition(":")[0], lock.read_text(encoding="utf-8")
    lock.write_text(re.sub(rf"(?<=  |- ){kind}: .*\n", forged.format(victim=victim), text))
    assert lock.read_text(encoding="utf-8") != text
    tiny.run("make", "heal")
    assert victim.read_text() == "years of work"
    tiny.good("make")
    assert tiny.results() == good


@pytest.mark.parametrize("entry", [("../thesis", "0" * 32), ("/thesis", "0" * 32), ("a", "/b")])
def test_a_listing_names_nothing_outside_its_folder(entry: tuple[str, str], tmp_path: Path) -> None:
    from tasks.repair import object_of, read_listing

    for name, number in (("b", "0" * 32), entry):
        text = json.dumps([{"relpath": name, "md5": number}])
        path = object_of(hashlib.md5(text.encode()).hexdigest() + ".dir", tmp_path)
        path.parent.mkdir(parents=True)
        path.write_text(text)
        if name == "b":
            assert read_listing(path) == [(number, name)]
    with pytest.raises(ValueError, match=r"^$"):
        read_listing(path)


@pytest.mark.parametrize("name", STATES)
def test_make_goes_on_from_damaged_state(tiny: Tiny, name: str) -> None:
    good = tiny.results()
    damage, patterns = STATES[name]
    paths = [path for of in patterns for path in
             sorted(tiny.folder.glob(of)) or [tiny.folder / of]]  # fmt: skip
    assert not [path for path in paths if "*" in str(path)]
    for path in paths:
        before = path.read_bytes() if path.is_file() else b""
        env = os.environ | {"it": str(path)}
        subprocess.run(damage, shell=True, cwd=tiny.folder, env=env, check=True)
        assert path.is_dir() or path.read_bytes() != before or damage.startswith(": >")
    (tiny.folder / "models/model").unlink()  # so that there is something to do
    tiny.good("make")
    assert tiny.results() == good
    if len(paths) > 1:
        tiny.good("make", "heal")  # knows the rest, which plain `make` has no need of
    for path in paths:
        assert not path.exists() or path.is_file()
        assert not path.is_file() or not path.read_bytes().endswith(b"{garbage")


def test_make_goes_on_where_a_file_lies_in_place_of_a_folder(tiny: Tiny) -> None:
    good = tiny.results()
    for name in (".dvc/tmp", ".dvc/cache/files/md5", ".dvc/cache/runs", ".run/dvc/repo"):
        shutil.rmtree(tiny.folder / name)
        (tiny.folder / name).touch()
    (tiny.folder / "models/model").unlink()
    output = tiny.good("make")
    assert output.count(": a file in place of a folder") == 4
    assert tiny.results() == good


def test_a_lock_that_is_a_folder_of_somebodys_is_left_alone(tiny: Tiny) -> None:
    (tiny.folder / "dvc.lock").unlink()
    (tiny.folder / "dvc.lock/mine").mkdir(parents=True)
    status, output = tiny.run("make")
    assert "heal: error: dvc.lock: Directory not empty; remove what lies there\n" in output
    assert (status, (tiny.folder / "dvc.lock/mine").is_dir()) == (2, True)


def test_garbage_in_dvc_yaml_costs_nothing_and_is_named(tiny: Tiny) -> None:
    lock = (tiny.folder / "dvc.lock").read_bytes() + b"# mine\n"
    (tiny.folder / "dvc.lock").write_bytes(lock)
    (tiny.folder / "dvc.yaml").write_text("garbage")
    status, output = tiny.run("make")
    says = (
        "make: not as committed, which may be why: dvc.yaml; "
        "`git checkout HEAD -- dvc.yaml` undoes the edits\n"
    )
    assert (status, says in output, "Traceback" in output) == (2, True, False)
    assert (tiny.folder / "dvc.lock").read_bytes() == lock


def test_no_shell_option_and_no_locale_gets_into_a_stage(tiny: Tiny, tmp_path: Path) -> None:
    good = tiny.results()
    tiny.make_stale()
    (tmp_path / "sh").symlink_to(str(shutil.which("bash")))  # which takes SHELLOPTS, unlike dash
    path = f"{tmp_path}{os.pathsep}{tiny.environment['PATH']}"
    output = tiny.good("make", PATH=path, SHELL="/nowhere", SHELLOPTS="noexec", LC_ALL="C")
    assert "Running stage 'train'" in output
    assert tiny.results() == good


def test_make_goes_on_after_dvc_was_killed_and_nobody_reaped_it(tiny: Tiny) -> None:
    tiny.make_stale()
    process = tiny.start(str(Path(sys.executable).with_name("dvc")), "repro", SECONDS_TO_TRAIN="60")
    rwlock = tiny.folder / ".dvc/tmp/rwlock"
    while not rwlock.exists() or str(process.pid) not in rwlock.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_dvc(process.pid)
    assert "heal: removed .dvc/tmp/rwlock: what held it was killed" in tiny.good("make")
    process.communicate()


def test_a_living_process_counts_as_dvc_by_its_command() -> None:
    for argument, expected in (("/usr/bin/dvc", True), ("/home/dvc/script", False)):
        command = [sys.executable, "-c", "print(flush=True); input()", argument]
        with subprocess.Popen(command, stdin=-1, stdout=-1) as living:
            assert living.stdout and living.stdout.readline() == b"\n"  # it has begun
            assert is_dvc(living.pid) is expected
        assert not is_dvc(living.pid)


def wait_for_training(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until stage train is at work; `SECONDS_TO_TRAIN` says for how long it will be."""
    while not (folder / "training").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def test_a_second_make_waits_for_the_first(tiny: Tiny) -> None:
    tiny.make_stale()
    first = tiny.start("make", SECONDS_TO_TRAIN="2")
    wait_for_training(first, tiny.folder)
    second = tiny.good("make")
    assert first.communicate()[0].count("Running stage 'train'") == 1
    assert second.startswith("make: another make is at work in this folder; waiting for it\n")
    assert "Running stage" not in second


def in_training(tiny: Tiny, *command: str, seconds: str = "60") -> subprocess.Popen[str]:
    """Start a command that trains anew, and wait until it does."""
    tiny.make_stale()
    process = tiny.start(*command, SECONDS_TO_TRAIN=seconds)
    wait_for_training(process, tiny.folder)
    return process


def test_ctrl_c_ends_make_with_130(tiny: Tiny) -> None:
    process = in_training(tiny, "sh", "tasks/start.sh", "repro")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "heal" not in output
    tiny.good("make")


def test_make_ends_what_it_started_when_it_is_terminated(tiny: Tiny) -> None:
    process = in_training(tiny, "sh", "tasks/start.sh", "repro")
    process.terminate()
    process.wait(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    os.killpg(process.pid, signal.SIGKILL)  # the stage itself; ours watch whether DVC lives
    process.communicate()


def test_a_folder_without_git_says_so_before_anything_is_installed(
    tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.folder / "tasks", tmp_path / "tasks")
    shutil.copy(tiny.folder / "Makefile", tmp_path)
    command = ["make", "-C", str(tmp_path)]
    status, output = tiny.run(*command, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    (line,) = [line for line in output.splitlines() if line.startswith("make: git")]
    assert status != 0
    assert re.match(r"make: git rev-parse: fatal: not a git repository.*; `git clone`", line)
    nested = tiny.folder / "nested"
    shutil.copytree(tmp_path, nested)
    status, output = tiny.run("make", "-C", str(nested))
    assert (status, "make: this folder is nested/ of another git repository" in output) == (2, True)


def snapshot(tiny: Tiny) -> dict[str, Any]:
    """Everything of the user's that an experiment must leave alone."""
    names = tiny.good("git", "ls-files").splitlines()
    contents = {
        name: (tiny.folder / name).read_bytes() for name in names if (tiny.folder / name).exists()
    }
    git = [tiny.good("git", *of.split()) for of in ("rev-parse HEAD", "stash list", "status -sb")]
    return {**contents, "git": git}


def metrics(tiny: Tiny, name: str) -> Any:
    (ref,) = tiny.good(
        "git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}"
    ).split()  # fmt: skip
    return json.loads(tiny.good("git", "show", f"{ref}:metrics/train.json"))


def test_recipe_leaves_the_folder_alone_and_needs_no_source(tiny: Tiny, tmp_path: Path) -> None:
    # Nor anybody's settings of git: hooks, filters, another name for the remote.
    hostile = write_hostile(tmp_path / "hostile")
    tiny.environment = tiny.environment | {"GIT_CONFIG_GLOBAL": hostile["GIT_CONFIG_GLOBAL"]}
    # An edit that is not committed stays, and stays out.
    tiny.set(train__epochs=50)
    before = snapshot(tiny)
    output = tiny.good("make", "recipe", "NAME=quick", "SEED=3", SOURCE="/nowhere")
    assert (
        "make: note: this runs HEAD and the preset; other uncommitted changes are left out"
        in output
    )
    assert re.search(r"^Metric +HEAD +quick-seed3 +Change\nepochs +100 +3 +-97$", output, re.M)
    assert snapshot(tiny) == before
    assert metrics(tiny, "quick-seed3") == {"epochs": 3}
    assert not list((tiny.folder / ".run/recipe").iterdir())
    # An older experiment of the name is replaced.
    preset = tiny.folder / "presets/quick.yaml"
    preset.write_text(preset.read_text().replace("epochs: 3", "epochs: 4"))
    tiny.good("make", "recipe", "NAME=quick", "SEED=3", SOURCE="/nowhere")
    assert metrics(tiny, "quick-seed3") == {"epochs": 4}


def test_a_killed_recipe_leaves_the_folder_alone_and_can_be_run_again(tiny: Tiny) -> None:
    tiny.set(train__epochs=50)
    before = snapshot(tiny)
    clone = tiny.folder / ".run/recipe/quick"
    for moment in ("clone", "training"):
        process = tiny.start("make", "recipe", "NAME=quick", SECONDS_TO_TRAIN="60")
        if moment == "training":
            wait_for_training(process, clone)
            (clone / ".run").mkdir(exist_ok=True)
            (clone / ".run/checkpoint.npz").write_text("of epoch 1")
        while not clone.exists():
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert snapshot(tiny) == before
    process = tiny.start("make", "recipe", "NAME=quick", SECONDS_TO_TRAIN="2")
    wait_for_training(process, clone)
    assert (clone / ".run/checkpoint.npz").read_text() == "of epoch 1"  # training can go on
    assert process.communicate()[0].count("Traceback") == 0
    assert process.returncode == 0
    assert metrics(tiny, "quick") == {"epochs": 3}
    assert snapshot(tiny) == before


PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
# With one more, whose name git refuses.
KNOWN = ", ".join(path.stem for path in sorted([*PRESETS, ROOT / "presets/my idea.yaml"]))
REFUSED: dict[tuple[str, ...], str] = {
    ("NAME=nope",): f"no presets/nope.yaml; NAME can be: {KNOWN}",
    ("NAME=../presets/quick",): f"no presets/../presets/quick.yaml; NAME can be: {KNOWN}",
    ("NAME=",): f"name a preset: NAME=quick; NAME can be: {KNOWN}",
    ("NAME=my idea",):
        "presets/my idea.yaml: rename it; an experiment is a git reference of its name",
    **{("NAME=quick", f"SEED={seed}"):
        f"SEED: expected a whole number, no sign or leading zero, as SEED=1; got {seed!r}"
       for seed in ("abc", "-1", "1e3", "007", "٣")},
}  # fmt: skip


@pytest.mark.parametrize("given", REFUSED)
def test_a_recipe_that_can_not_be_run_is_refused_in_one_line(
    given: tuple[str, ...], tiny: Tiny
) -> None:
    shutil.copy(tiny.folder / "presets/quick.yaml", tiny.folder / "presets/my idea.yaml")
    status, output = tiny.run("make", "recipe", *given)
    first, _ = output.splitlines()
    assert (status, first) == (2, f"make: {REFUSED[given]}")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_whole_whatever_was_committed(preset: Path, tmp_path: Path) -> None:
    edited = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    edited["dataset"]["photos"] = "plain"
    edited["train"].update(
        epochs=7, dropout=0.9, random_flip=True, random_affine=3.0, hidden_units=[5, 5], seed=1,
        optimizer={"class_name": "Adam", "config": {"learning_rate": 1.0, "beta_1": 0.5}},
    )  # fmt: skip
    for name, text in (
        ("committed", (ROOT / "params.yaml").read_text(encoding="utf-8")),
        ("edited", yaml.safe_dump(edited, allow_unicode=True)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / PARAMS_FILE).write_text(text, encoding="utf-8")
        apply(preset, tmp_path / name)
    one, two = (yaml.safe_load((tmp_path / name / PARAMS_FILE).read_text(encoding="utf-8"))
                for name in ("committed", "edited"))  # fmt: skip
    assert one["train"] == two["train"]
    wanted = yaml.safe_load(preset.read_text(encoding="utf-8"))
    assert one["train"] == Train().model_dump() | wanted["train"]
    if "mnist" in preset.stem:
        assert one["dataset"] == two["dataset"]
        assert one["dataset"]["name"] == "MNIST"
    check_params(one)


def test_a_preset_keeps_the_comments(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / PARAMS_FILE).write_text(text, encoding="utf-8")
    apply(ROOT / "presets/accurate.yaml", tmp_path, "8")
    written = (tmp_path / PARAMS_FILE).read_text(encoding="utf-8")
    comments = re.findall("#.*", text)
    assert len(comments) > 30
    assert re.findall("#.*", written) == comments
    assert "\n  seed: 8\n" in written


def test_a_preset_s_texts_stay_texts(tmp_path: Path) -> None:
    shutil.copy(ROOT / PARAMS_FILE, tmp_path)
    (tmp_path / "odd.yaml").write_text("dataset: {name: 'on', license: '12:30'}")
    apply(tmp_path / "odd.yaml", tmp_path)
    written = yaml.safe_load((tmp_path / PARAMS_FILE).read_text(encoding="utf-8"))
    assert (written["dataset"]["name"], written["dataset"]["license"]) == ("on", "12:30")


def test_a_preset_keeps_what_its_base_says_of_training(tmp_path: Path) -> None:
    shutil.copy(ROOT / PARAMS_FILE, tmp_path)
    (tmp_path / "low.yaml").write_text("train: {epochs: 7, dropout: 0.3}")
    (tmp_path / "high.yaml").write_text("base: low\ntrain: {dropout: 0.1}")
    apply(tmp_path / "high.yaml", tmp_path)
    written = yaml.safe_load((tmp_path / PARAMS_FILE).read_text(encoding="utf-8"))
    assert written["train"] == Train(epochs=7, dropout=0.1).model_dump()


def test_assign_tells_zero_from_false() -> None:
    node: dict[str, Any] = {"a": 0, "b": {"c": 1}, "d": 1}
    assign(node, {"a": False, "b": {"c": True}})
    assert json.dumps(node) == '{"a": false, "b": {"c": true}}'


def test_a_preset_that_does_not_fit_is_refused_with_its_name(tmp_path: Path) -> None:
    for text, message in (
        ("train: {epoch: 3}", r"bad\.yaml: train\.epoch is unknown"),
        ("train: [", r"bad\.yaml: expected sections of params\.yaml"),
        ("- train", r"bad\.yaml: expected sections of params\.yaml"),
        ("base: nothing", r"bad\.yaml: expected sections of params\.yaml.*nothing\.yaml"),
        ("base: bad", r"bad\.yaml: expected sections of params\.yaml: .* leads in a circle"),
        ("base: ../bad", r"bad\.yaml: expected sections of params\.yaml"),
        (
            "preprocess: {validation_images: 59500}",
            r"^[^:]*bad\.yaml: evaluate\.examples: \[988\] must be below 500",
        ),
        (
            "dataset: {image_shape: [256, 256]}\ntrain: {hidden_units: []}",
            r"^[^:]*bad\.yaml: train\.hidden_units: \[\] leaves 65,536 pixels",
        ),
        ("train: {hidden_units: [40000]}", r"train\.hidden_units\.0: .*32,?768"),
        (
            "train: {optimizer: {class_name: SGD, config: {learning_rate: 0.1, momentun: 1}}}",
            r"^[^:]*bad\.yaml: train\.optimizer\.config\.momentun is unknown",
        ),
    ):
        shutil.copy(ROOT / PARAMS_FILE, tmp_path)
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            apply(tmp_path / "bad.yaml", tmp_path)


def test_a_database_that_is_in_use_is_whole(tmp_path: Path) -> None:
    from tasks.repair import is_database

    path = tmp_path / "cache.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("BEGIN EXCLUSIVE")
        assert is_database(path)
    path.write_bytes(b"garbage")
    assert not is_database(path)
