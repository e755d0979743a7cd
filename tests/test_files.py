import errno
import os
import stat
from pathlib import Path

import pytest

from fashion_mlp.formats import write_text
from pipeline.files import replacing


def test_replacing_renames_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        number = temporary.stat().st_ino
    assert path.read_text() == "new"
    assert path.stat().st_ino == number  # renamed: a reader sees the old file or the new one
    assert list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_names_the_folder_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere
    with pytest.raises(PermissionError) as error, replacing(tmp_path / "file"):
        pass
    assert error.value.filename == str(tmp_path)


def test_replacing_leaves_a_file_that_others_may_read(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
