#!/bin/sh
# triton_module.sh TRITON FOLDER: compiles the one C module of Triton, which it would compile itself
# when it first meets a GPU, into a folder. Runs inside the build of the image, where there is no
# driver: a library without contents takes its place for the linker.
set -eu
source=$1/backends/nvidia
headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))')
scratch=$(mktemp -d)

gcc -shared -Wl,-soname,libcuda.so.1 -x c /dev/null -o "$scratch/libcuda.so.1"
gcc "$source/driver.c" -O3 -shared -fPIC -Wno-psabi -o "$2/cuda_utils.so" \
    -I "$source/include" -I "$headers" -L "$scratch" -Wl,--no-as-needed -l:libcuda.so.1
cp "$source/driver.c" "$2"
rm -r "$scratch"
