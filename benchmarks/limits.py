"""The physical limit: the matrix products of a workload and nothing else.

Each linear layer as one product, what reads the same input fused, over weights that are packed as
`model_core.packing` packs them: no attention, no norms, no choice of tokens.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.libraries import Answer, Library
from benchmarks.workloads import Item
from model_core.packing import pack

_RUNNING = 128  # requests decoded together, as a worker of the server has it
_ENCODE_TOKENS = 4096  # source tokens in one pass, as the server has it
_CROSS_KEY_VALUE = re.compile(r"(encoder_attn\.|crossattention\.self\.)([kv]_proj|key|value)$")
_SELF_QKV = re.compile(r"(self_attn\.|attention\.self\.)([qkv]_proj|query|key|value)$")
_UNUSED = re.compile(r"pooler")  # BERT's pooler sees one token, and nobody its output


@dataclass(frozen=True)
class Product:
    """A matrix product `[rows, width_in] x [width_in, width_out]`.

    Attributes:
        runs: Once for each token of a source, or once for each row of a decoder step.
        width_in: Columns of the input.
        width_out: Columns of the output.
    """

    runs: Literal["source", "step"]
    width_in: int
    width_out: int

    @property
    def flops(self) -> int:
        """Operations for one row."""
        return 2 * self.width_in * self.width_out  # multiply + add


def products_of(model: Any) -> list[Product]:
    """The products of an encoder-decoder, in the order in which they run."""
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()} | {id(model.get_output_embeddings())}
    found: dict[tuple[str, str], Product] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not _UNUSED.search(name):
            in_decoder = id(module) in inside or name.startswith("decoder.cls")
            _add(found, name, module, in_decoder=in_decoder)
    return list(found.values())


def _add(
    found: dict[tuple[str, str], Product], name: str, module: nn.Linear, *, in_decoder: bool
) -> None:
    """Add a layer to the products; what reads the same input becomes wider together."""
    runs: Literal["source", "step"] = "step" if in_decoder else "source"
    key = (name, "")
    if _CROSS_KEY_VALUE.search(name):
        runs, key = "source", (_CROSS_KEY_VALUE.sub(r"\1", name), "kv")
    elif _SELF_QKV.search(name):
        key = (_SELF_QKV.sub(r"\1", name), "qkv")
    before = found[key].width_out if key in found else 0
    found[key] = Product(runs, module.in_features, before + module.out_features)


def flops_of(products: Sequence[Product], source_tokens: int, rows: int) -> int:
    """Operations for so many source tokens, and rows of all decoder steps together."""
    per_source = sum(each.flops for each in products if each.runs == "source")
    per_row = sum(each.flops for each in products if each.runs == "step")
    return per_source * source_tokens + per_row * rows


class Products(Library):
    """Stands beside the systems as the one that does nothing but matrix products, in float32.

    It has as many threads as it has workers, which share the requests.
    """

    def load(self) -> None:
        """See `Library`."""
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self._tokenizer = tokenizers.from_pretrained(self.folder)
        models: Any = AutoModelForSeq2SeqLM
        with torch.device("meta"):
            model = models.from_config(AutoConfig.from_pretrained(self.folder))
        products = products_of(model)
        self._per_source = [_weight(each) for each in products if each.runs == "source"]
        self._per_row = [_weight(each) for each in products if each.runs == "step"]

    def decode(self, items: Sequence[Item]) -> list[Answer]:
        """See `Library`; the targets are empty, of the lengths that were asked for."""
        if any(item.target_len is None for item in items):
            raise ValueError("the lengths of its targets are not known beforehand")
        num_workers = self.knobs.num_workers
        with ThreadPoolExecutor(num_workers) as pool:
            list(
                pool.map(self._decode, (items[start::num_workers] for start in range(num_workers)))
            )
        return [Answer("", item.target_len or 0) for item in items]

    @torch.inference_mode()
    def _decode(self, items: Sequence[Item]) -> None:
        if not items:
            return
        torch.set_num_threads(self.knobs.num_threads)  # each thread has its own count
        source_tokens = sum(len(self._tokenizer(item.text)["input_ids"]) for item in items)
        for start in range(0, source_tokens, _ENCODE_TOKENS):
            self._run(self._per_source, min(_ENCODE_TOKENS, source_tokens - start))
        lengths = [item.target_len or 0 for item in items]
        rows = min(_RUNNING, len(items)) * items[0].num_beams
        total_rows = sum(lengths) * items[0].num_beams
        for start in range(0, total_rows, rows):
            self._run(self._per_row, min(rows, total_rows - start))

    @torch.inference_mode()
    def step(self, rows: int) -> None:
        """The products of one decoder step."""
        self._run(self._per_row, rows)

    def _run(self, weights: Sequence["_Weight"], rows: int) -> None:
        for product, multiply in weights:
            multiply(torch.ones(rows, product.width_in), None)


_Weight = tuple[Product, Callable[[Tensor, Tensor | None], Tensor]]


def _weight(product: Product) -> _Weight:
    weight = torch.randn(product.width_out, product.width_in)
    return product, pack(weight) or partial(_plain, weight)


def _plain(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(x, weight, bias)
