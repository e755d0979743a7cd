"""Show a training run's curves while it goes on: `make watch`, in a second terminal.

Serves one page, to this machine alone. It draws plots/history.csv, which stage train writes anew
after each epoch; or, where `make recipe` trains in a folder of its own, the log that is newest.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from fashion_mlp.paths import HISTORY
from fashion_mlp.pictures import charts
from stages.evaluate import read_history

PORT = 8001
RECIPES = Path(".run/recipe")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="2">
<style>body {{ font: 16px system-ui, sans-serif; margin: 1rem auto; max-width: 880px;
padding: 0 1rem }} img {{ max-width: 100% }}</style>
<h1>{title}</h1><p>{text}</p>{picture}</html>
"""


def page() -> str:
    """Write the page of the log as it is now."""
    logs = [path for path in (HISTORY, *RECIPES.glob(f"*/{HISTORY}")) if path.is_file()]
    try:
        log = max(logs, key=lambda path: path.stat().st_mtime, default=HISTORY)
        history = read_history(log)
    except (OSError, ValueError) as error:  # no run so far, or the log is being replaced
        return PAGE.format(title="No epoch yet", text=escape(str(error)), picture="")
    values = ", ".join(f"{key} {values[-1]:.4f}" for key, values in history.items())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "history.png")
        charts.history(path, "en", history, {}, (), None)
        drawn = base64.b64encode(path.read_bytes()).decode()
    return PAGE.format(
        title=f"Epoch {len(history['loss'])}",
        text=escape(f"{log}: {values}"),
        picture=f'<img alt="Curves of loss and accuracy" src="data:image/png;base64,{drawn}">',
    )


class Handler(BaseHTTPRequestHandler):
    """Answers any request with the page."""

    timeout = 1  # second: browsers open connections on which they ask nothing

    def do_GET(self) -> None:
        """Answer."""
        content = page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        with suppress(ConnectionError):  # the page was closed
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Stay silent: a page that looks every two seconds would fill the terminal."""


def main() -> int:
    """Serve until Ctrl-C, on a port that may be given."""
    port = sys.argv[1] if len(sys.argv) > 1 else str(PORT)
    try:
        if not port.isdecimal():
            raise ValueError("expected a number")
        server = HTTPServer(("127.0.0.1", int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        print(f"watch: error: port {port}: {error}; make watch PORT=8002", file=sys.stderr)
        return 1
    print(f"watch: http://127.0.0.1:{server.server_port}/, until Ctrl-C", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
