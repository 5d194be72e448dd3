"""Indexing ``function_app.py`` by the rules of Microsoft's Python worker, where its own library cannot be had.

The rules are those of ``azure-functions-runtime``, ``loader.py``, ``functions.py`` and ``bindings/meta.py``; the
worker for Python 3.11 and 3.12 has the same ones.
"""

import importlib
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import azure.functions as func

from devhost.rpc import FunctionMetadata

MODULE = "function_app"
IN, OUT, INOUT = range(3)
RETURN = "$return"


class FunctionLoadError(Exception):
    """The worker refuses a function. The message names the function and what is wrong with it."""

    def __init__(self, function_name: str, reason: str) -> None:
        super().__init__(f"cannot load the {function_name} function: {reason}")


@dataclass(frozen=True)
class LoadedFunction:
    """A function and how its values are converted: the binding type of each parameter, and of what it returns."""

    metadata: FunctionMetadata
    handler: Callable[..., Any]
    directory: str
    takes_context: bool
    inputs: dict[str, str]
    returns: str | None

    @property
    def http_parameter(self) -> str | None:
        return next((name for name, binding in self.inputs.items() if binding == "httpTrigger"), None)


def load_functions(directory: Path) -> list[LoadedFunction]:
    """Import the app's module from the directory and read the functions of its app.

    Raises:
        FunctionLoadError: a function has a binding or an annotation that the worker refuses.
        Exception: whatever importing the module raises.
    """
    if not (directory / f"{MODULE}.py").exists():
        return []
    module = importlib.import_module(MODULE)
    apps = [value for value in vars(module).values() if isinstance(value, func.FunctionRegister)]
    if len(apps) != 1:
        raise ValueError(f"{MODULE}.py must have one function app at its top level, not {len(apps)}")
    return [_load(definition) for definition in apps[0].get_functions()]


def http_extension() -> Any:
    """``azurefunctions.extensions.base`` where the app uses a web framework's types in HTTP functions, else None."""
    base = sys.modules.get("azurefunctions.extensions.base")
    return base if base is not None and base.HttpV2FeatureChecker.http_v2_enabled() else None


def binding_converter(binding: str) -> Any:
    """How the SDK converts the values of a binding type; None for one that it does not know."""
    return func.get_binding_registry().get(binding)  # type: ignore[no-untyped-call]


def _load(definition: Any) -> LoadedFunction:
    name: str = definition.get_function_name()
    handler = definition.get_user_function()
    annotations = typing.get_type_hints(handler)
    bindings = {binding.name: binding for binding in definition.get_bindings()}
    for binding in bindings.values():
        _check_direction(name, binding)
    bound = {key: binding for key, binding in bindings.items() if key != RETURN}
    parameters = set(inspect.signature(handler).parameters)
    takes_context = _takes_context(name, parameters, bound, annotations)
    _check_parameters(name, parameters - {"context"} if takes_context else parameters, set(bound))
    converted = {key: _checked_type(name, binding, annotations) for key, binding in bound.items()}
    return LoadedFunction(
        metadata=FunctionMetadata(
            str(uuid.uuid5(uuid.NAMESPACE_OID, name)), name, tuple(definition.get_raw_bindings())
        ),
        handler=handler,
        directory=str(Path(inspect.getfile(handler)).parent),
        takes_context=takes_context,
        inputs={key: kind for key, kind in converted.items() if bound[key].direction != OUT},
        returns=_return_binding(name, bindings, annotations),
    )


def _check_direction(name: str, binding: Any) -> None:
    if binding.direction == INOUT:
        raise FunctionLoadError(name, f"the direction of the binding {binding.name} is inout")
    if binding.name == RETURN and binding.direction != OUT:
        raise FunctionLoadError(name, f"the direction of the binding {RETURN} is not out")


def _takes_context(name: str, parameters: set[str], bound: dict[str, Any], annotations: dict[str, Any]) -> bool:
    if "context" not in parameters or "context" in bound:
        return False
    annotation = annotations.get("context", func.Context)
    if not isinstance(annotation, type) or annotation.__name__ != "Context":
        raise FunctionLoadError(name, f"context must be annotated azure.functions.Context, not {annotation}")
    return True


def _check_parameters(name: str, parameters: set[str], bound: set[str]) -> None:
    if parameters != bound:
        raise FunctionLoadError(
            name, f"its parameters {sorted(parameters)} are not the names of its bindings {sorted(bound)}"
        )


def _checked_type(name: str, binding: Any, annotations: dict[str, Any]) -> str:
    """The binding type by which a parameter's values are converted, once its annotation has been found to fit."""
    annotation = annotations.get(binding.name)
    if binding.name not in annotations:
        return str(binding.type)
    is_out = getattr(_origin(annotation) or annotation, "__name__", "") == "Out"
    if is_out != (binding.direction == OUT):
        raise FunctionLoadError(
            name, f"the annotation {annotation} of {binding.name} does not fit the direction of its binding"
        )
    if is_out:
        arguments = typing.get_args(annotation)
        if len(arguments) != 1:
            raise FunctionLoadError(name, f"the annotation {annotation} of {binding.name} is not an Out of one type")
        annotation = arguments[0]
    if not isinstance(annotation, type) and not _is_generic(annotation):
        raise FunctionLoadError(name, f"the annotation {annotation} of {binding.name} is not a type for the worker")
    generic = annotation in (str, bytes) and not _has_implicit_output(binding.type)
    kind = "generic" if generic else str(binding.type)
    if not (_fits_output(kind, annotation) if is_out else _fits_input(kind, annotation)):
        raise FunctionLoadError(
            name, f"the annotation {annotation} of {binding.name} does not fit its binding, {binding.type}"
        )
    return kind


def _return_binding(name: str, bindings: dict[str, Any], annotations: dict[str, Any]) -> str | None:
    """The binding type by which the returned value is converted; None for a function that may return only None."""
    if RETURN not in bindings:
        implicit = [str(binding.type) for binding in bindings.values() if _has_implicit_output(binding.type)]
        return implicit[-1] if implicit else None
    kind = str(bindings[RETURN].type)
    if "return" in annotations:
        annotation = annotations["return"]
        if not isinstance(annotation, type):
            raise FunctionLoadError(name, f"the annotation {annotation} of what it returns is not a type")
        if not _fits_output(kind, annotation):
            raise FunctionLoadError(name, f"the annotation {annotation} of what it returns does not fit {kind}")
    return kind


def _origin(annotation: Any) -> Any:
    return typing.get_origin(annotation) if _is_generic(annotation) else None


def _is_generic(annotation: Any) -> bool:
    """Whether the worker takes it for a generic type: ``typing.Dict[str, int]`` is one, ``dict[str, int]`` is not."""
    if isinstance(annotation, type):
        return issubclass(annotation, typing.Generic)
    special = (None, typing.Union, types.UnionType, tuple, typing.ClassVar, Callable)
    return not isinstance(annotation, types.GenericAlias) and typing.get_origin(annotation) not in special


def _has_implicit_output(binding: str) -> bool:
    """Whether a function with this binding may return a value without a binding for it. Unknown ones may."""
    converter = binding_converter(binding)
    return converter is None or getattr(converter, "has_implicit_output", lambda: False)()


def _fits_input(binding: str, annotation: Any) -> bool:
    extension = http_extension()
    if binding == "httpTrigger" and extension is not None:
        return bool(extension.RequestTrackerMeta.check_type(annotation))
    converter = binding_converter(binding)
    if converter is None:
        return issubclass(annotation, (str, bytes))
    return bool(converter.check_input_type_annotation(annotation))


def _fits_output(binding: str, annotation: Any) -> bool:
    extension = http_extension()
    if binding == "http" and extension is not None:
        return bool(extension.ResponseTrackerMeta.check_type(annotation))
    converter = binding_converter(binding)
    if converter is None:
        return issubclass(annotation, (str, bytes, bytearray))
    return bool(converter.check_output_type_annotation(annotation))
