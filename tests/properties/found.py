"""Runs that once failed, by architecture: each is tried again before any is drawn."""

from tests.properties.plans import Plan

FOUND: dict[str, list[Plan]] = {}
