"""`python3 -m tasks NAME`: what `make NAME` does."""

import sys

from tasks.program import main

sys.exit(main(sys.argv[1:]))
