#!/bin/sh
# Lets Triton load its module as on a GPU, but without a compiler. A library of empty functions is
# the driver. Runs in the image's stage `triton`.
set -eu
mkdir /tmp/driver
nm --dynamic --undefined-only /opt/triton/cuda_utils.so \
    | awk '$2 ~ /^cu/ {print "void " $2 "(void) {}"}' > /tmp/driver/empty.c
gcc -shared -fPIC -w /tmp/driver/empty.c -Wl,-soname,libcuda.so.1 -o /tmp/driver/libcuda.so.1
rm /usr/bin/gcc
LD_LIBRARY_PATH=/tmp/driver CC=/opt/triton/cc.sh PYTHONPATH=/triton python3 -c '
from importlib.metadata import version
from triton.backends.nvidia.driver import CudaUtils
assert callable(CudaUtils().launch)
print("Triton", version("triton"))
'
