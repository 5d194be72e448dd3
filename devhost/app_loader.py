"""Loading ``function_app.py`` as the Python worker does: functions, triggers, bindings, annotations."""

import importlib
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

import azure.functions as func

from devhost.functions import Function, FunctionTable, Trigger


class FunctionLoadError(Exception):
    """A function cannot be served. The message names the function and what is wrong with it."""

    def __init__(self, function_name: str, reason: str) -> None:
        super().__init__(f"cannot load the {function_name} function: {reason}")


def load_functions(directory: Path) -> FunctionTable:
    """Import ``function_app`` from the directory and read the functions of its app.

    Raises:
        FunctionLoadError: a function has a trigger, binding or annotation the worker or this host would refuse.
        Exception: whatever importing ``function_app`` raises.
    """
    sys.path.insert(0, str(directory))
    module = importlib.import_module("function_app")
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if len(apps) != 1:
        raise FunctionLoadError("top level", f"function_app.py must define one FunctionApp, not {len(apps)}")
    (app,) = apps.values()
    return FunctionTable([_load(definition) for definition in app.get_functions()])


def _load(definition: Any) -> Function:
    name: str = definition.get_function_name()
    trigger = definition.get_trigger()
    if trigger is None:
        raise FunctionLoadError(name, "it has no trigger")
    kind = _trigger_kind(name, trigger)
    clients = tuple(_client_parameters(name, definition.get_bindings(), trigger))
    handler = definition.get_user_function()
    annotations = _resolve_annotations(name, handler)
    takes_context = _check_parameters(name, handler, {trigger.name, *clients})
    _check_annotations(name, annotations, takes_context=takes_context)
    annotation = annotations.get(trigger.name)
    return Function(
        name=_registered_name(kind, trigger) or name,
        trigger=kind,
        handler=handler,
        trigger_parameter=trigger.name,
        client_parameters=clients,
        takes_context=takes_context,
        classic_request=inspect.isclass(annotation) and issubclass(annotation, func.HttpRequest),
        route=(getattr(trigger, "route", None) or name).strip("/"),
        methods=_methods(trigger),
        anonymous=_is_anonymous(trigger),
    )


def _trigger_kind(name: str, trigger: Any) -> Trigger:
    binding_type = _binding_type(trigger)
    try:
        return Trigger(binding_type)
    except ValueError:
        known = ", ".join(Trigger)
        raise FunctionLoadError(
            name, f"this host does not implement the trigger {binding_type}; it implements {known}"
        ) from None


def _binding_type(binding: Any) -> str:
    # A generic binding has its type where the others have the kind of their data.
    name: str = binding.get_binding_name() or binding.type
    return name


def _client_parameters(name: str, bindings: list[Any], trigger: Any) -> list[str]:
    clients = []
    for binding in bindings:
        binding_type = _binding_type(binding)
        if binding_type == "durableClient":
            clients.append(binding.name)
        elif binding is not trigger and binding_type != "http":
            raise FunctionLoadError(name, f"this host does not implement the binding {binding_type}")
    return clients


def _resolve_annotations(name: str, handler: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(handler)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise FunctionLoadError(
            name,
            f"an annotation does not resolve at run time: {error}; the Python worker resolves every annotation at "
            "load, so import the name outside `if TYPE_CHECKING`",
        ) from None


def _check_parameters(name: str, handler: Any, bound: set[str]) -> bool:
    """Whether the handler takes the invocation ``context``; its other parameters must be its bindings."""
    parameters = set(inspect.signature(handler).parameters)
    takes_context = "context" in parameters and "context" not in bound
    parameters -= {"context"} if takes_context else set()
    if parameters != bound:
        raise FunctionLoadError(
            name, f"its parameters {sorted(parameters)} are not the names of its bindings {sorted(bound)}"
        )
    return takes_context


def _check_annotations(name: str, annotations: dict[str, Any], *, takes_context: bool) -> None:
    """The worker's rules (``functions.py``): a parameter's annotation is a class or a generic one, not a union."""
    for parameter, annotation in annotations.items():
        union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        if parameter != "return" and (union or not (isinstance(annotation, type) or typing.get_origin(annotation))):
            raise FunctionLoadError(name, f"the annotation {annotation} of {parameter} is not a type")
    context = annotations.get("context", func.Context)
    if takes_context and context.__name__ != "Context":
        raise FunctionLoadError(name, f"context must be annotated azure.functions.Context, not {context}")


def _registered_name(kind: Trigger, trigger: Any) -> str | None:
    attribute = {
        Trigger.ORCHESTRATION: "orchestration",
        Trigger.ACTIVITY: "activity",
        Trigger.ENTITY: "entity_name",
    }.get(kind)
    generic = {Trigger.ENTITY: "entityName"}.get(kind, "")
    name: str | None = (getattr(trigger, attribute, None) if attribute else None) or trigger.get_dict_repr().get(
        generic
    )
    return name


def _methods(trigger: Any) -> tuple[str, ...]:
    methods = getattr(trigger, "methods", None) or ()
    return tuple(str(getattr(method, "value", method)).upper() for method in methods)


def _is_anonymous(trigger: Any) -> bool:
    level = getattr(trigger, "auth_level", None)
    return level is None or str(getattr(level, "value", level)).lower() == "anonymous"
