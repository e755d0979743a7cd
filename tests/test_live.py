import re
import signal
import socket
import struct
import sys
import urllib.request
from pathlib import Path

from tests.processes import run, start

LIVE = (sys.executable, "-m", "report.live")
HEADER = "epoch,loss,accuracy,validation_loss,validation_accuracy\n"


def test_the_page_follows_a_run_epoch_by_epoch_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = start(tmp_path, *LIVE, "0")
    assert process.stdout is not None
    (address,) = re.findall(r"http://\S+/", process.stdout.readline())

    def look() -> tuple[str, ...]:
        with urllib.request.urlopen(address, timeout=30) as answer:
            page = answer.read().decode()
        (title,) = re.findall("<h1>(.*)</h1>", page)
        return (title, *re.findall('src="data:image/png;base64,iVBOR', page))

    try:
        port = int(address.rstrip("/").rpartition(":")[2])
        idle = socket.create_connection(("127.0.0.1", port))  # as browsers open them
        with socket.create_connection(("127.0.0.1", port)) as closed:
            closed.sendall(b"GET / HTTP/1.1\r\n\r\n")
            # What is unread or unsent is dropped: the other side's next write fails.
            closed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert look() == ("No epoch yet",)
        idle.close()
        recipe = tmp_path / ".run/recipe/quick"
        for number, folder in enumerate((tmp_path, tmp_path, recipe), start=1):
            log = folder / "plots/history.csv"
            log.parent.mkdir(parents=True, exist_ok=True)
            rows = [f"{epoch},{1 / epoch},0.5,,\n" for epoch in range(1, number + 1)]
            log.write_text(HEADER + "".join(rows))
            title, picture = look()
            assert title == f"Epoch {number}"
            assert picture
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_a_port_that_can_t_be_had_is_refused_in_one_line(tmp_path: Path) -> None:
    for port in ("99999", "-1", "x"):
        done = run(tmp_path, *LIVE, port)
        assert done.returncode == 1
        assert re.fullmatch(rf"watch: error: port {port}: .*; make watch PORT=8002\n", done.stderr)
