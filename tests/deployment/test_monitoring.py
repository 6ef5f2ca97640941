"""Dashboard, alerts and scaling ask for metrics that the server has."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from deployment.chart import CHART
from deployment.panels import PANELS
from model_core.ledger import EngineStats
from model_core.runner import EncodeReport

ROOT = CHART.parents[1]
RULES = (CHART / "files" / "rules.yml").read_text()
NAME = re.compile(r"\btandem_\w+")


def samples() -> dict[str, set[str]]:
    """Labels of every sample that a server in use gives."""
    metrics = Metrics()
    stats = EngineStats(**{field.name: 1 for field in fields(EngineStats)})
    metrics.watch(lambda: {"model": stats})
    for outcome in ("finished", "cancelled"):
        metrics.request_ended("model", "translate", outcome, 0.1)
    metrics.answered("model", "translate", source_tokens=1, generated_tokens=1, truncated=True)
    metrics.admitted("model", 0.1)
    metrics.encoded("model", EncodeReport(1, 1, 8, 10), 0.1)
    metrics.stepped("model", 4, 0.1)
    metrics.call_ended("client", "/translate", 200)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> Iterator[str]:
    for panel in PANELS:
        yield from panel.queries.values()
    for group in yaml.safe_load(RULES)["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for template in ("autoscaling.yaml", "monitoring.yaml"):
        text = (CHART / "templates" / template).read_text()
        yield from (line for line in text.splitlines() if "tandem_" in line)


def test_every_query_is_on_metrics_that_exist() -> None:
    known = samples()
    for query in queries():
        assert set(NAME.findall(query)) <= known.keys(), query


def test_every_query_groups_by_labels_that_exist() -> None:
    """`job`, `instance` and `namespace` come from the scrape."""
    known = samples()
    of_scrape = {"job", "instance", "namespace"}
    for query in queries():
        labels = set().union(*(known[name] for name in NAME.findall(query)), of_scrape)
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert set(re.findall(r"\w+", grouped)) <= labels, query
        for matched in re.findall(r"\{([^{}]*)\}", query):
            assert set(re.findall(r"(\w+)=", matched)) <= labels, query


def test_the_dashboard_shows_every_metric_that_an_operator_needs() -> None:
    shown = {
        name for panel in PANELS for each in panel.queries.values() for name in NAME.findall(each)
    }
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}

    every = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples()}
    assert every - bases == {"tandem_running_requests"}  # the slots in use


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    board: Any = json.loads((CHART / "files" / "dashboard.json").read_text())
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in board["panels"]]

    assert len(places) == len(set(places)) == len(PANELS)
    assert len({each["title"] for each in board["panels"]}) == len(PANELS)


def test_every_alert_says_what_it_is_and_how_bad() -> None:
    for group in yaml.safe_load(RULES)["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}
            assert rule["for"]


def test_the_chart_can_put_its_own_release_in_place_of_the_job() -> None:
    """Its template replaces this text in the rules."""
    for metric in re.finditer(r"(?:tandem_\w+|\bup)\{([^}]*)\}", RULES):
        assert metric[1].startswith('job="tandem"')
    assert len(re.findall(r"\btandem_\w+(?!\w|\{)", RULES)) == 0


def test_every_alert_is_shown_to_fire() -> None:
    """By promtool, in `make verify-deploy`."""
    shown = yaml.safe_load((ROOT / "deployment/verify/rules_test.yml").read_text())["tests"]
    fired = {
        each["alertname"]
        for test in shown
        for each in test["alert_rule_test"]
        if each["exp_alerts"]
    }

    assert fired == {
        rule["alert"] for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]
    }
