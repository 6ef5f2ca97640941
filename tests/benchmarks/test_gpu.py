"""The measurements of a GPU, tried on a CPU with tiny models."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import main
from benchmarks.gpu_report import checks_table, merged, rates_table, steps_table
from benchmarks.libraries import Transformers
from benchmarks.results import Results


def test_one_call_measures_steps_and_throughput_and_names_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    results = main(
        [
            *("--device", "cpu", "--dtype", "float32", "--tiny"),
            *("--num-items", "2", "--num-running", "2"),
            *("--num-rounds", "1", "--workload", "translate", "summarize-large-greedy"),
            *("--num-texts", "1", "--parity-dtype", "float32", "--output", str(path)),
        ]
    )
    found = {(each["workload"], each["mode"], each["system"]) for each in results.measured}
    for name in ("translate", "summarize-large-greedy"):
        assert (name, "step", "tandem") in found
        for system in ("tandem", "transformers"):
            assert (name, "offline", system) in found
            assert (name, "alone", system) in found
    (attention,) = [each for each in results.measured if each["mode"] == "difference"]
    assert attention["float32"] < 1e-6  # its rounding alone
    assert attention["bfloat16"] < 1e-2
    assert attention["float16"] < 2e-3
    rates = [each["rate"] for each in results.measured if each["mode"] == "parity"]
    assert rates == [1.0, 1.0]
    steps = [each for each in results.measured if each["mode"] == "step"]
    assert [each["rows"] for each in steps] == [8, 2]
    assert all(each["whole_ms"] > 0 and each["bytes_limit_ms"] > 0 for each in steps)
    assert Results.read(path).measured == results.measured
    head = 2
    num_rates = sum(each["mode"] in ("offline", "alone") for each in results.measured)
    assert len(rates_table(results).splitlines()) == head + num_rates >= head + 2 * 2 * 2
    assert len(steps_table(results).splitlines()) == head + 2
    assert checks_table(results).splitlines()[head].startswith("| float32 |")


def test_nothing_begins_after_the_minutes_it_was_given(tmp_path: Path) -> None:
    results = main(
        ["--device", "cpu", "--tiny", "--minutes", "-1", "--output", str(tmp_path / "gpu.json")]
    )
    assert results.measured == []
    assert {each["reason"] for each in results.missing} == {"there was no time left"}


def test_what_fails_is_named_and_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Transformers, items: Any) -> Any:
        raise AssertionError("out of order")

    monkeypatch.setattr(Transformers, "decode_batch", fail)
    results = main(
        [
            *("--device", "cpu", "--dtype", "float32", "--tiny", "--workload", "translate"),
            *("--num-items", "1", "--num-running", "1", "--num-rounds", "1"),
            *("--num-texts", "1", "--parity-dtype", "--output", str(tmp_path / "gpu.json")),
        ]
    )
    failed = [each for each in results.missing if each["system"] == "transformers"]
    assert {each["reason"] for each in failed} == {"AssertionError: out of order"}
    assert {each["mode"] for each in results.measured} == {
        *("load", "offline", "alone", "step", "difference")
    }


@pytest.mark.parametrize(
    ("name", "other", "found"),
    [
        ("gpu", "H100", "H100"),
        ("dtype", "float16", "dtype float16"),
        ("num_running", "64", "num_running 64"),
        ("max_encode_tokens", "8192", "max_encode_tokens 8192"),
        ("torch", "2.13.0", "torch 2.13.0"),
    ],
)
def test_runs_on_several_kinds_of_gpu_or_with_other_settings_are_not_mixed(
    name: str, other: str, found: str
) -> None:
    def run(**changed: str) -> Results:
        settings = {"dtype": "bfloat16", "num_running": "128", "max_encode_tokens": "4096"}
        settings |= {"gpu": "H200", "torch": "2.11.0"} | changed
        about = {"gpu": settings.pop("gpu"), "versions": {"torch": settings.pop("torch")}}
        return Results(None, about | {"arguments": settings}, [], [])

    assert merged([run(), run()]).about == run().about
    with pytest.raises(ValueError, match=found):
        merged([run(), run(**{name: other})])
