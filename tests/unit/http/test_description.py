import pytest

from agentstream.http.openapi import OPERATIONS, describe
from agentstream.http.routes import create_http_functions
from agentstream.settings import Settings


def test_every_route_that_is_served_is_described() -> None:
    functions = create_http_functions(Settings(), ["A"])
    served = {
        (trigger["methods"][0], trigger["route"])
        for builder in functions._function_builders
        if (trigger := builder._function.get_trigger().get_dict_repr())["type"] == "httpTrigger"
    }

    assert {(getattr(method, "value", method), route) for method, route in served} == set(OPERATIONS)


def test_every_reference_leads_somewhere() -> None:
    description = describe(dict.fromkeys(OPERATIONS, "operation"), ["A"], "/api")

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            found = [each for inner in value.values() for each in references(inner)]
            return [*found, value["$ref"]] if "$ref" in value else found
        return [each for inner in value for each in references(inner)] if isinstance(value, list) else []

    names = {reference.removeprefix("#/components/schemas/") for reference in references(description)}
    assert names <= set(description["components"]["schemas"])
    assert {"RunBody", "RunView", "Problem"} <= names


def test_a_route_that_is_not_described_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        describe({("GET", "unknown"): "unknown"}, ["A"], "/api")
