"""Compiles the kernels for a GPU that need not be there.

In a process of its own: Triton either compiles or interprets. Arguments: a compute capability as
`90`, and dtypes as `bf16`.
"""

import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model_core.cuda import kernel, norm_kernel, ranking_kernel
from model_core.cuda.pages import PAGE_LEN

WARP_SIZE = 32
NUM_HEADS = 12
VOCAB_SIZE = 58_101
_NORM = ("hidden_ptr", "residual_ptr", "weight_ptr", "bias_ptr", "normed_ptr")
_DTYPES = {"*bf16": tl.bfloat16, "*fp16": tl.float16, "*fp32": tl.float32}
_WIDTH = {"PADDED": 1024}
_Kernel = tuple[Any, dict[str, str], dict[str, Any]]
"""A kernel, the types of its arguments, and its constants."""


def compile_for(capability: int, dtype: str, num_beams: int, *, is_self: bool) -> list[str]:
    """What became of the kernels, for a compute capability such as 90."""
    kernels = (
        *_of_attention(f"*{dtype}", num_beams, is_self=is_self),
        *_of_ranking(f"*{dtype}", num_beams),
        (norm_kernel._add_norm_kernel, dict.fromkeys(_NORM, f"*{dtype}") | {"eps": "fp32"}, _WIDTH),
    )
    return [_compile(*each, capability) for each in kernels]


def _of_attention(cache: str, num_beams: int, *, is_self: bool) -> Iterator[_Kernel]:
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
    yield kernel._attend_kernel, pointers, shapes | attend
    yield kernel._write_kernel, pointers, shapes | attend | {"PADDED_HEADS": 16}
    yield kernel._combine_kernel, pointers | {"partial_ptr": "*fp32"}, shapes | {"NUM_SPLITS": 4}


def _of_ranking(logits: str, num_beams: int) -> Iterator[_Kernel]:
    chunk, num_best = ranking_kernel.chunk_for(VOCAB_SIZE, num_beams), 2 * num_beams
    num_chunks, is_short = triton.cdiv(VOCAB_SIZE, chunk), logits != "*fp32"
    of_slot = {
        "NUM_BEAMS": num_beams,
        "CHUNK": chunk,
        "NUM_CHUNKS": num_chunks,
        "OF_CHUNK": num_best,
        "NUM_BEST": num_best,
        "PADDED": triton.next_power_of_2(num_beams * num_chunks * num_best),
        "DTYPE": _DTYPES[logits],
        "IS_SHORT": is_short,
    }
    values = ("normalizers_ptr", "live_scores_ptr", "scores_ptr", "sums_ptr")
    pointers = dict.fromkeys(values, "*fp32") | {"rows_ptr": logits, "logits_ptr": logits}
    pointers |= {"parents_ptr": "*i64", "token_ids_ptr": "*i64"}
    pointers |= {"keys_ptr": "*i32" if is_short else "*i64"}
    yield ranking_kernel._log_sum_exp_kernel, pointers, {"BLOCK": ranking_kernel._BLOCK}
    of_chunk = {"CHUNK": chunk, "NUM_BEST": num_best, "IS_SHORT": is_short}
    yield ranking_kernel._chunk_kernel, pointers, of_chunk
    yield ranking_kernel._slot_kernel, pointers, of_slot


def _compile(function: Any, types: dict[str, str], constants: dict[str, Any], target: int) -> str:
    names = function.arg_names
    own = {(names.index(name),): value for name, value in constants.items() if name in names}
    signature = {
        name: "constexpr" if (index,) in own else types.get(name, "i32")
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
