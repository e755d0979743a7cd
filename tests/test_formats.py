from pathlib import Path

import pytest

from fashion_mlp.formats import write_csv, write_json, write_text


def test_write_text_ends_lines_with_lf_in_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "ботинки\n")
    assert (tmp_path / "file").read_bytes() == "ботинки\n".encode()


def test_write_json_keeps_order_and_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"b": 0.5, "a": "сумка"})
    assert (tmp_path / "file").read_bytes() == '{\n  "b": 0.5,\n  "a": "сумка"\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_write_json_refuses_what_json_cannot_hold(tmp_path: Path, value: float) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError):
        write_json(tmp_path / "file", {"loss": value})
    assert (tmp_path / "file").read_text() == "old"


def test_write_csv_rounds_floats_and_quotes(tmp_path: Path) -> None:
    write_csv(tmp_path / "file", ["n", "name", "share"], [(1, "a, b", 2 / 3), (2, "c", 1e-9)])
    expected = b'n,name,share\n1,"a, b",0.666667\n2,c,0.000000\n'
    assert (tmp_path / "file").read_bytes() == expected
