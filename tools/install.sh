#!/bin/sh
# Installs this package into .venv with uv: called by the Makefile with UV, PYTHON, TORCH_BACKEND and EXTRAS set.
set -eu
export VIRTUAL_ENV="$PWD/.venv"

install() { "$UV" pip install --constraint constraints.txt --editable ".[$EXTRAS]" "$@"; }

# What pip was told of this machine counts for uv too: a certificate of the company's proxy, a folder of wheels.
pip_setting() { "$PYTHON" -m pip config get "global.$1" 2>/dev/null || true; }
cert="${PIP_CERT:-$(pip_setting cert)}"
[ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
links="${PIP_FIND_LINKS:-$(pip_setting find-links)}"
[ -z "$links" ] || UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "$links" | tr -s ' \n' ',' | sed 's/,$//')}"

if [ -n "${UV_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS # such a folder may hold the right torch for this machine
    install
elif [ "$(uname)" != Linux ]; then
    install # PyPI's torch is the right one for macOS (with MPS)
elif ! install --torch-backend "$TORCH_BACKEND"; then
    [ "$TORCH_BACKEND" = auto ] || exit 1
    # PyTorch's own host has a wheel per GPU type; behind a firewall that lets only PyPI through, its big CUDA wheel does.
    echo "Without PyTorch's own host: trying PyPI's torch (made for CUDA, works on CPU too)."
    install
fi
