"""Compiles the kernels for a GPU that need not be there.

In a process of its own: Triton either compiles or interprets. Arguments: a compute capability as
`90`, and dtypes as `bf16`.
"""

import sys
from itertools import product
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model_core.cuda import kernel
from model_core.cuda.pages import PAGE_LEN

WARP_SIZE = 32
NUM_HEADS = 12


def compile_for(capability: int, dtype: str, num_beams: int, *, is_self: bool) -> list[str]:
    """What became of the three kernels, for a compute capability such as 90."""
    cache, integers = f"*{dtype}", "i32"
    num_splits, head_dim = (1 if is_self else 4), 80
    shapes = {"NUM_HEADS": NUM_HEADS, "HEAD_DIM": head_dim, "PADDED_DIM": 128}
    attend = {
        "NUM_BEAMS": num_beams,
        "PAGE": PAGE_LEN,
        "PADDED_BEAMS": 16,
        "NUM_SPLITS": num_splits,
        "HAS_ANCESTRY": is_self,
        "HAS_BIAS": is_self,
    }
    pointers = dict.fromkeys(
        ("query_ptr", "key_ptr", "value_ptr", "keys_ptr", "values_ptr", "context_ptr"), cache
    ) | {
        "pages_ptr": "*i32",
        "lengths_ptr": "*i32",
        "ancestry_ptr": "*i16" if is_self else "*i32",
        "bias_ptr": "*fp32" if is_self else "*i32",
        "partial_ptr": "*fp32" if num_splits > 1 else cache,
    }
    compiled = []
    for function, constants in (
        (kernel._attend_kernel, shapes | attend),
        (kernel._write_kernel, shapes | attend | {"PADDED_HEADS": 16}),
        (kernel._combine_kernel, shapes | {"NUM_SPLITS": 4}),
    ):
        if function is kernel._combine_kernel:
            pointers["partial_ptr"] = "*fp32"
        compiled.append(_compile(function, pointers, integers, constants, capability))
    return compiled


def _compile(
    function: Any, pointers: dict[str, str], integers: str, constants: dict[str, Any], target: int
) -> str:
    names = function.arg_names
    own = {(names.index(name),): value for name, value in constants.items() if name in names}
    signature = {
        name: "constexpr" if (index,) in own else pointers.get(name, integers)
        for index, name in enumerate(names)
    }
    source = ASTSource(fn=function, signature=signature, constexprs=own)
    options: dict[str, int] = {"enable_fp_fusion": True}
    if function is kernel._attend_kernel:
        options = kernel._LAUNCH
    compiled = triton.compile(source, target=GPUTarget("cuda", target, WARP_SIZE), options=options)
    return f"{function.__name__}: {len(compiled.asm['cubin'])} bytes"


if __name__ == "__main__":
    for dtype, (num_beams, is_self) in product(sys.argv[2:], ((4, True), (1, False))):
        found = compile_for(int(sys.argv[1]), dtype, num_beams, is_self=is_self)
        sys.stdout.write(f"{found}\n")
