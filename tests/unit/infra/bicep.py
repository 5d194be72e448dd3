"""A small reader of Bicep files: what they declare, as Python values.

It reads what ``infra/`` uses of the language; a syntax error is told, an expression stays the text that it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

_LANGUAGE = Language(tree_sitter_bicep.language())
# Names of the language itself: https://learn.microsoft.com/azure/azure-resource-manager/bicep/bicep-functions
_NAMESPACES = {"az", "sys", "null"}


class Code(str):
    """An expression, as it is written."""


@dataclass(frozen=True)
class Declared:
    """A resource or module.

    Args:
        symbol: Its name within the file.
        kind: The type without its version, such as ``Microsoft.Web/sites/config``; of a module the file.
        body: Its properties.
    """

    symbol: str
    kind: str
    body: dict[str, Any]

    def at(self, path: str) -> Any:
        """Return what is under a path such as ``properties.siteConfig``; None where there is nothing."""
        value: Any = self.body
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


class Bicep:
    """One file.

    Args:
        text: What is in it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._root = Parser(_LANGUAGE).parse(text.encode()).root_node

    @property
    def has_errors(self) -> bool:
        return self._root.has_error

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters with their defaults; None where one has to be given."""
        found: dict[str, Any] = {}
        for node in self._declarations("parameter_declaration"):
            name, _, *default = node.named_children
            found[_text(name)] = _value(default[0]) if default else None
        return found

    @cached_property
    def variables(self) -> dict[str, Any]:
        return {
            _text(node.named_children[0]): _value(node.named_children[1])
            for node in self._declarations("variable_declaration")
        }

    @cached_property
    def outputs(self) -> dict[str, Any]:
        return {
            _text(node.named_children[0]): _value(node.named_children[-1])
            for node in self._declarations("output_declaration")
        }

    @cached_property
    def resources(self) -> list[Declared]:
        """All resources, nested ones under the whole name of their type."""
        return list(_resources(self._root, ""))

    @cached_property
    def modules(self) -> list[Declared]:
        return [
            Declared(_text(node.named_children[0]), _value(node.named_children[1]), _value(_body(node)))
            for node in self._declarations("module_declaration")
        ]

    def resource(self, symbol: str) -> Declared:
        return next(resource for resource in self.resources if resource.symbol == symbol)

    def text_of(self, symbol: str) -> str:
        """Return how a resource is written."""
        found = (node for node in self._declarations("resource_declaration") if _text(node.named_children[0]) == symbol)
        return _text(next(found))

    @cached_property
    def declared(self) -> set[str]:
        """The names that expressions may use: of parameters, variables, resources, modules and of loops."""
        names = set(self.parameters) | set(self.variables) | {each.symbol for each in self.resources + self.modules}
        loops = (node for node in _walk(self._root) if node.type == "for_statement")
        return names | {_text(name) for loop in loops for name in _loop_names(loop)}

    @cached_property
    def used(self) -> set[str]:
        """The names that expressions use."""
        return {_text(node) for node in _walk(self._root) if node.type == "identifier" and _is_used(node)} - _NAMESPACES

    def _declarations(self, kind: str) -> Iterator[Node]:
        return (node for node in self._root.named_children if node.type == kind)


def _resources(node: Node, parent: str) -> Iterator[Declared]:
    for child in node.named_children:
        if child.type == "resource_declaration":
            kind = str(_value(child.named_children[1])).partition("@")[0]
            kind = f"{parent}/{kind}" if parent else kind
            body = _body(child)
            yield Declared(_text(child.named_children[0]), kind, _value(body))
            yield from _resources(body, kind)
        elif child.type != "object":
            yield from _resources(child, parent)


def _body(node: Node) -> Node:
    """Return the object that a declaration gives, be it under a condition or in a loop."""
    last = node.named_children[-1]
    return last if last.type == "object" else _body(last)


def _value(node: Node) -> Any:
    match node.type:
        case "object":
            pairs = [each.named_children for each in node.named_children if len(each.named_children) == 2]
            return {str(_value(key)): _value(value) for key, value in pairs}
        case "array" if all(child.type != "for_statement" for child in node.named_children):
            return [_value(child) for child in node.named_children]
        case "string" if all(child.type == "string_content" for child in node.named_children):
            return "".join(_text(child) for child in node.named_children)
        case "number":
            return int(_text(node))
        case "boolean":
            return _text(node) == "true"
        case "parenthesized_expression":
            return _value(node.named_children[0])
    return Code(_text(node))


def _is_used(name: Node) -> bool:
    parent = name.parent
    assert parent is not None
    names_first = parent.type in {"object_property", "call_expression", "for_statement"} or "declaration" in parent.type
    return not names_first or parent.named_children[0] != name


def _loop_names(loop: Node) -> list[Node]:
    """Return what a loop calls its items, and perhaps their index."""
    first = loop.named_children[0]
    return first.named_children if first.type == "for_loop_parameters" else [first]


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.named_children:
        yield from _walk(child)


def _text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()
