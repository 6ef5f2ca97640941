#!/bin/sh
# packages.sh cpu|cuda: installs what the project needs beside the torch that is there, which must be
# of that kind. Runs inside the build of the image.
set -eu
python=/opt/tandem/bin/python

/opt/build/bin/pip --python "$python" install --quiet \
    --constraint /constraints.txt --requirement /requirements.txt
"$python" - "$1" << 'CHECK'
import sys
import torch

found = "cpu" if torch.version.cuda is None else "cuda"
if found != sys.argv[1]:
    sys.exit(f"expected a torch for {sys.argv[1]}, found {torch.__version__}: set TORCH_INDEX_URL")
CHECK

# Headers and libraries for those who compile against torch.
cd /opt/tandem/lib/python3*/site-packages/torch
rm -rf include share test lib/*.a
find bin -type f ! -name torch_shm_manager -delete
