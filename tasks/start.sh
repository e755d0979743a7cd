#!/bin/sh
# Starts the program behind the Makefile. -E: PYTHONPATH, PYTHONHOME and the like stay out of it;
# -X utf8: so does the locale.
for python in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
  if "$python" -E -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
    exec "$python" -E -X utf8 -m tasks "$@"
  fi
done
echo "make: needs Python 3.11, 3.12 or 3.13, and finds none; name one: make PYTHON=/path/to/python3.12" >&2
exit 1
