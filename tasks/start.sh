#!/bin/sh
# Starts the program behind the Makefile. -I, -S: PYTHONPATH, PYTHONHOME and packages stay out of it, and
# so do modules of this folder, which is last on the path; -X utf8: so does the locale.
START='import os, runpy, sys; sys.path.append(os.getcwd()); runpy.run_module("tasks", run_name="__main__", alter_sys=True)'
for python in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
  if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
    exec "$python" -IS -X utf8 -c "$START" "$@"
  fi
done
echo "make: needs Python 3.11, 3.12 or 3.13, and finds none; name one: make PYTHON=/path/to/python3.12" >&2
exit 1
