#!/usr/bin/env bash
# Installs PixTools on a node of the cluster in cluster.yaml. `setup.sh gpu` also installs PyTorch for the denoiser.
set -euo pipefail
cd "$(dirname "$0")/../.."

sudo apt-get update
sudo apt-get install --yes python3.12-venv
python3.12 -m venv ~/venv
~/venv/bin/pip install --require-hashes --only-binary :all: -r requirements/local.txt
~/venv/bin/pip install --no-index --no-build-isolation .
if [ "${1:-}" = gpu ]; then
    ~/venv/bin/pip install --no-build-isolation '.[gpu]'
fi
# Only this user may read the token and the passwords.
chmod -R go= ~/.ray ~/pixtools-secrets
