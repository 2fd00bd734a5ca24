#!/bin/sh
# Prints the newest Python (3.12 to 3.13, which all oracles have) found on PATH or in pyenv.
for version in 3.13 3.12; do
    for python in "$(command -v python$version)" "$HOME"/.pyenv/versions/$version*/bin/python; do
        if "$python" -c '' 2>/dev/null; then
            echo "$python"
            exit 0
        fi
    done
done
echo "no Python 3.12 or 3.13 was found" >&2
exit 1
