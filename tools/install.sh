#!/bin/sh
# Installs this package into .venv with uv: called by the Makefile with UV, PYTHON, TORCH_BACKEND and EXTRAS set.
set -eu
export VIRTUAL_ENV="$PWD/.venv"

install() { "$UV" pip install --constraint constraints.txt --editable ".[$EXTRAS]" "$@"; }

# A folder of wheels that pip was told to look into counts for uv too: it may hold the right torch for this machine.
links="${PIP_FIND_LINKS:-$("$PYTHON" -m pip config get global.find-links 2>/dev/null || true)}"
if [ -n "$links" ]; then
    UV_FIND_LINKS=$(echo "$links" | tr -s ' \n' ',,') install
elif [ "$(uname)" != Linux ]; then
    install # PyPI's PyTorch is the right one for macOS (with MPS)
elif ! install --torch-backend "$TORCH_BACKEND"; then
    # PyTorch's own host has wheels per GPU type; behind a firewall that knows only PyPI, PyPI's wheel (CUDA) does on every machine.
    [ "$TORCH_BACKEND" = auto ] || exit 1
    echo "PyTorch's wheel host did not answer: taking the wheel from PyPI (made for CUDA, works on CPU too)."
    install
fi
