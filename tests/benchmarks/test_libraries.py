"""Every library does the work that was asked for, and the servers hand it on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from torch import nn

from benchmarks.batching_server import create_app, take_batch
from benchmarks.libraries import CTranslate2, Knobs, Library, Tandem, Transformers
from benchmarks.limits import Products, flops_of, products_of
from benchmarks.peer_arguments import PeerArguments
from benchmarks.systems import SYSTEMS, systems_for
from benchmarks.worker import decode, steps
from benchmarks.workloads import WORKLOADS, Item, Workload
from tests.benchmarks.conftest import ITEMS, TINY

ONE_THREAD = Knobs(num_threads=1)


@pytest.mark.parametrize("name", list(TINY))
def test_libraries_give_as_many_tokens_as_were_asked_for(
    name: str, tiny_folders: dict[str, Path]
) -> None:
    kinds: list[type[Library]] = [Tandem, Transformers, Products]
    for kind in kinds:
        library = kind(tiny_folders[name], "translate", ONE_THREAD)
        answers = library.decode(ITEMS)
        assert [answer.num_tokens for answer in answers] == [item.target_len for item in ITEMS]


@pytest.mark.parametrize("name", list(TINY))
def test_tandem_and_transformers_give_the_same_texts(
    name: str, tiny_folders: dict[str, Path]
) -> None:
    tandem, transformers = (
        library(tiny_folders[name], "translate", ONE_THREAD) for library in (Tandem, Transformers)
    )
    assert tandem.decode(ITEMS) == transformers.decode(ITEMS)


@pytest.mark.parametrize("name", ["marian", "bart"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_ctranslate2_does_the_same_work(
    name: str, dtype: str, tiny_folders: dict[str, Path]
) -> None:
    pytest.importorskip("ctranslate2")
    knobs = replace(ONE_THREAD, dtype=dtype, num_workers=2)
    answers = CTranslate2(tiny_folders[name], "translate", knobs).decode(ITEMS)
    assert [answer.num_tokens for answer in answers] == [item.target_len for item in ITEMS]
    if dtype == "float32":
        exact = Transformers(tiny_folders[name], "translate", ONE_THREAD).decode(ITEMS)
        same = sum(ours == theirs for ours, theirs in zip(answers, exact, strict=True))
        assert same >= 3  # the same search over the same weights, apart from pad tokens and ties


def test_ctranslate2_says_which_checkpoint_it_does_not_take(tiny_folders: dict[str, Path]) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ValueError, match="does not convert `EncoderDecoderModel`"):
        CTranslate2(tiny_folders["bert2bert"], "translate", ONE_THREAD)


def test_a_batch_decoded_to_its_longest_target_is_cut(tiny_folders: dict[str, Path]) -> None:
    knobs = replace(ONE_THREAD, length_slack=1.0)
    answers = Transformers(tiny_folders["bart"], "translate", knobs).decode(ITEMS)
    assert [answer.num_tokens for answer in answers] == [item.target_len for item in ITEMS]


@pytest.mark.parametrize("name", list(TINY))
def test_the_products_add_up_to_what_generate_computes(
    name: str, tiny_folders: dict[str, Path]
) -> None:
    library = Transformers(tiny_folders[name], "translate", ONE_THREAD)
    model, counted = library._model, 0

    def count(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal counted
        rows = inputs[0].numel() // module.in_features
        counted += 2 * rows * module.in_features * module.out_features

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and "pooler" not in path:
            module.register_forward_hook(count)
    library.decode([Item("t10 t11 t12 t13", 1, 7)])
    assert counted == flops_of(products_of(model), source_tokens=5, rows=7)


def test_a_worker_counts_tokens_and_refuses_other_work(tiny_folders: dict[str, Path]) -> None:
    def draw(rng: Any) -> Item:
        return Item(f"t{rng.randint(10, 90)} t{rng.randint(10, 90)}", 2, 5)

    workload = Workload("tiny", "translate", draw, 1.0, "tiny")
    library = Tandem(tiny_folders["marian"], "translate", ONE_THREAD)
    assert decode(library, workload, 6, seed=0)["tokens"] == 30
    assert steps(library, workload, 8)["seconds"] > 0
    products = Products(tiny_folders["marian"], "translate", ONE_THREAD)
    assert steps(products, workload, 8)["seconds"] > 0
    full = library.decode

    def too_few(items: list[Item]) -> Any:
        return [replace(answer, num_tokens=4) for answer in full(items)]

    library.decode = too_few  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="Tandem gave 4 tokens: expected 5"):
        decode(library, workload, 6, seed=0)


async def test_the_batching_server_answers_all_calls(tiny_folders: dict[str, Path]) -> None:
    knobs = replace(ONE_THREAD, max_batch_size=2, num_workers=2)
    arguments = PeerArguments(Transformers, tiny_folders["bart"], "translate", 0, knobs)
    async with LifespanManager(create_app(arguments)) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://peer") as http:
            for item in ITEMS:
                body = {"text": item.text, "parameters": item.parameters}
                answer = (await http.post("/translate", json=body)).json()
                assert answer["usage"] == {"generated_tokens": item.target_len}


def test_a_micro_batch_is_who_waits_longest_and_whoever_fits() -> None:
    waiting: Any = [(item, object()) for item in ITEMS]
    knobs = Knobs(max_batch_size=2, length_slack=0.25)
    assert [item for item, _ in take_batch(waiting, knobs)] == ITEMS[:2]
    assert [item for item, _ in take_batch(waiting, knobs)] == [ITEMS[2], ITEMS[4]]
    assert [item for item, _ in take_batch(waiting, knobs)] == [ITEMS[3]]
    assert take_batch(waiting, knobs) == []


def test_a_micro_batch_is_no_more_unlike_than_its_slack_says() -> None:
    lengths = [16, 12, 20, 16]  # each fits beside the first, but not 12 beside 20
    waiting: Any = [(Item("a", 1, length), object()) for length in lengths]
    knobs = Knobs(max_batch_size=8, length_slack=0.25)
    assert [item.target_len for item, _ in take_batch(waiting, knobs)] == [16, 12, 16]
    assert [item.target_len for item, _ in take_batch(waiting, knobs)] == [20]


def test_litserve_gets_batches_of_requests_and_gives_answers(tiny_folders: dict[str, Path]) -> None:
    pytest.importorskip("litserve")
    from benchmarks.litserve_server import Api

    api = Api(PeerArguments(Transformers, tiny_folders["bart"], "translate", 0, ONE_THREAD))
    api.setup("cpu")
    bodies = [{"text": item.text, "parameters": item.parameters} for item in ITEMS]
    batch = api.batch([api.decode_request(body) for body in bodies])
    answers = api.predict(batch)
    assert isinstance(answers, list)
    counted = [
        api.encode_response(answer)["usage"]["generated_tokens"] for answer in api.unbatch(answers)
    ]
    assert counted == [item.target_len for item in ITEMS]


@pytest.mark.parametrize("name", systems_for("closed"))
def test_a_server_is_told_its_folder_task_and_port(name: str, tmp_path: Path) -> None:
    command = " ".join(SYSTEMS[name].command(tmp_path, "summarize", 4321))
    assert str(tmp_path) in command
    assert "summarize" in command
    assert "4321" in command


def test_tandem_is_served_in_its_precision() -> None:
    command = SYSTEMS["tandem-int8"].command(Path("folder"), "translate", 1)
    assert "--dtype int8" in " ".join(command)


def test_tandem_does_the_same_work_in_int8(tiny_folders: dict[str, Path]) -> None:
    library = Tandem(tiny_folders["bart"], "translate", replace(ONE_THREAD, dtype="int8"))
    assert [each.num_tokens for each in library.decode(ITEMS)] == [
        item.target_len for item in ITEMS
    ]


def test_every_workload_is_served_at_a_task_of_tandem() -> None:
    assert {workload.task for workload in WORKLOADS.values()} == {"translate", "summarize"}
