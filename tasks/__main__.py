"""`python3 -m tasks NAME`: what `make NAME` does."""

import sys

if sys.platform == "win32":
    sys.exit("make: Windows itself can't run this; use its Linux (WSL: wsl --install)")

from tasks.program import main  # needs fcntl, which Windows lacks

sys.exit(main(sys.argv[1:]))
