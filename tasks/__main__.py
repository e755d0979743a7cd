"""`python3 -m tasks NAME`: what `make NAME` does. Any Python can read this file."""

import sys

if sys.version_info < (3, 8):  # noqa: UP036  # an old python3 may start this
    sys.exit(
        "make: python3 is Python %d.%d; needs 3.11, 3.12 or 3.13. Put one first on PATH, as python3"
        % sys.version_info[:2]
    )

from tasks.program import main

sys.exit(main(sys.argv[1:]))
