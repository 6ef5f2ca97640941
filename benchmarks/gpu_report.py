"""The tables of a run on a GPU."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.report import markdown, where_from
from benchmarks.results import Measured, Results, figure

_MODES = ("offline", "alone")
_SETTINGS = ("dtype", "num_running", "max_encode_tokens")  # which the section names once for all


def merged(runs: list[Results]) -> Results:
    """One run made of several: `about` of the first, what all of them measured, what none did.

    Raises:
        ValueError: They differ in the kind of GPU, in settings or in versions.
    """
    first = runs[0]
    kinds = {_kind(run.about) for run in runs}
    if len(kinds) > 1:
        found = "; ".join(sorted(kinds))
        raise ValueError(
            f"expected runs on one kind of GPU, with the same settings and versions, found {found}"
        )
    measured = [each for run in runs for each in run.measured]
    known = {(each["workload"], each["system"], each["mode"]) for each in measured}
    missing = [
        each
        for run in runs
        for each in run.missing
        if (each["workload"], each["system"], each["mode"]) not in known
    ]
    return Results(None, first.about, measured, missing)


def _kind(about: Mapping[str, Any]) -> str:
    settings = [f"{name} {about['arguments'][name]}" for name in _SETTINGS]
    packages = [f"{name} {number}" for name, number in about["versions"].items()]
    return ", ".join([about["gpu"], *settings, *packages])


def gpu_section(results: Results) -> str:
    """Everything that a run has to show."""
    about = results.about
    parts = [
        f"One {about['gpu']}, {about['arguments']['dtype']}. {where_from(about)}",
        "Target tokens per second: medians of the rounds, least and most. So many requests come at "
        f"once, of which Tandem has {about['arguments']['num_running']} in flight "
        f"(`TANDEM_MAX_ENCODE_TOKENS` is {about['arguments']['max_encode_tokens']}); `generate()` "
        "gets batches of like target lengths, of at most the size that is named, and the ratio is "
        "to its better one.",
        rates_table(results),
        "One decoder step of the requests that still run after 40, launched alone, in "
        "milliseconds; *bytes* is what its weights, keys and values take at the speed of a copy.",
        steps_table(results),
        checks_table(results),
        *_left_out(results),
    ]
    return "\n\n".join(part for part in parts if part)


def rates_table(results: Results) -> str:
    """Tokens per second of each system, and Tandem's ratio to it."""
    head = ["workload", "requests", "system", "batch", "tokens/s", "spread", "Tandem's ratio"]
    runs = [each for each in results.measured if each["mode"] in _MODES]
    best = best_rates(runs)
    rows = []
    for each in runs:
        rates = each["tokens_per_s"]
        key = (each["workload"], each["mode"])
        is_best = best[*key, each["system"]] == statistics.median(rates)
        ours = best.get((*key, "tandem"), 0.0)
        ratio = f"{ours / statistics.median(rates):.2f}" if ours and is_best else ""
        rows.append(
            [
                f"`{each['workload']}`",
                str(each["num_items"]),
                each["system"],
                "" if each["system"] == "tandem" else str(each["batch_size"]),
                figure(statistics.median(rates)),
                f"{figure(min(rates))} to {figure(max(rates))}",
                "" if each["system"] == "tandem" else ratio,
            ]
        )
    return markdown(head, rows, num_words=3)


def steps_table(results: Results) -> str:
    """Where the time of a step goes."""
    head = ["workload", "rows", "whole", "attention", "products, norms", "choice", "bytes", "times"]
    rows = [
        [
            f"`{each['workload']}`",
            str(each["rows"]),
            *(
                f"{each[name]:.2f}"
                for name in ("whole_ms", "attention_ms", "products_and_norms_ms", "choice_ms")
            ),
            f"{each['bytes_limit_ms']:.2f}",
            f"{1 / each['fraction_of_limit']:.1f}",
        ]
        for each in results.measured
        if each["mode"] == "step"
    ]
    return markdown(head, rows) if rows else ""


def checks_table(results: Results) -> str:
    """Is what it computes right? By dtype."""
    by_dtype: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for each in results.measured:
        if each["mode"] == "parity":
            column = f"`{each['workload']}`, {each['num_texts']} texts"
            columns[column] = None
            by_dtype.setdefault(each["system"], {})[column] = f"{100 * each['rate']:.0f} %"
    for each in results.measured[::-1]:
        if each["mode"] == "difference":
            for dtype in by_dtype:
                by_dtype[dtype]["attention"] = f"{each[dtype]:.1e}"
    if not by_dtype:
        return ""
    head = ["dtype", "difference of attention to float64", *(f"same answers, {c}" for c in columns)]
    rows = [
        [dtype, found.get("attention", ""), *(found.get(column, "") for column in columns)]
        for dtype, found in by_dtype.items()
    ]
    return markdown(head, rows)


def best_rates(runs: Iterable[Measured]) -> dict[tuple[str, str, str], float]:
    """Median tokens per second at the best batch size, by workload, mode and system."""
    found: dict[tuple[str, str, str], float] = {}
    for each in runs:
        key = (each["workload"], each["mode"], each["system"])
        found[key] = max(found.get(key, 0.0), statistics.median(each["tokens_per_s"]))
    return found


def _left_out(results: Results) -> Iterator[str]:
    lines = [
        f"- `{each['workload']}`, {each['system']}, {each['mode']}: {each['reason']}"
        for each in results.missing
    ]
    if lines:
        yield "Not measured:\n\n" + "\n".join(dict.fromkeys(lines))
