#!/bin/sh
# What Triton finds for a compiler in the image: it hands out the module that was compiled with the
# image, and knows no other. `cc.sh SOURCE ... -o MODULE ...`
set -eu
here=$(dirname "$0")
if ! cmp --silent "$1" "$here/driver.c"; then
    echo "expected the driver.c of the Triton of this image, found another source: $1" >&2
    exit 1
fi
while [ "$1" != -o ]; do shift; done
cp "$here/cuda_utils.so" "$2"
