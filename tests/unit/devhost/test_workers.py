"""The workers side by side: what Microsoft's library accepts and refuses, the small one accepts and refuses."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.devhost.load_apps import WORKERS, loaded

CLASSIC = """
import typing
from typing import Any
import azure.durable_functions as df
import azure.functions as func
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
"""
STREAMING = f"{CLASSIC}from azurefunctions.extensions.http.fastapi import JSONResponse, Request, StreamingResponse\n"
ACTIVITY = f"{CLASSIC}@app.activity_trigger(input_name='value')\n"
ROUTE = f"{CLASSIC}@app.route()\n"
STREAMING_ROUTE = f"{STREAMING}@app.route()\n"

ACCEPTED = {
    "durable": f"""{CLASSIC}
@app.orchestration_trigger(context_name='context', orchestration='Renamed')
def orchestrate(context: df.DurableOrchestrationContext): yield
@app.entity_trigger(context_name='context', entity_name='Counter')
def count(context): ...
@app.activity_trigger(input_name='value', activity='work')
async def do(value: str, context: func.Context) -> list: ...
@app.function_name('named')
@app.activity_trigger(input_name='value')
def other(value): ...
""",
    "classic": f"""{CLASSIC}
@app.route(route='/items/{{id:int}}/{{part?}}', methods=['GET', func.HttpMethod.POST])
def items(req: func.HttpRequest) -> func.HttpResponse: ...
@app.route(trigger_arg_name='request', auth_level='function')
@app.durable_client_input(client_name='client')
async def start(request, client: df.DurableOrchestrationClient) -> str: ...
@app.durable_client_input(client_name='client')
@app.activity_trigger(input_name='value')
async def act(value: dict, client): ...
""",
    "streaming": f"""{STREAMING}
@app.route(route='{{*rest}}')
async def stream(req: Request) -> StreamingResponse: ...
@app.route()
@app.durable_client_input(client_name='client')
async def start(req: Request, client: df.DurableOrchestrationClient, context: func.Context) -> JSONResponse: ...
@app.route()
def unannotated(req): ...
@app.route()
def returns_a_dict(req: Request) -> dict: ...
""",
    "blueprint": """
import azure.functions as func
import azure.durable_functions as df
blueprint = df.Blueprint()
@blueprint.activity_trigger(input_name='value')
def act(value: int) -> int: ...
app = func.FunctionApp()
app.register_functions(blueprint)
""",
    "no function": CLASSIC,
    "no file": None,
    "any": f"{ACTIVITY}def act(value: Any) -> Any: ...",
    "typing.Dict": f"{ACTIVITY}def act(value: typing.Dict[str, Any]): ...",
    "typing.List": f"{ACTIVITY}def act(value: typing.List): ...",
    "Literal": f"{ACTIVITY}def act(value: typing.Literal['a']): ...",
    "Annotated": f"{ACTIVITY}def act(value: typing.Annotated[int, 'many']): ...",
    "any return of an activity": f"{ACTIVITY}def act(value: str) -> dict[str, int] | None: ...",
    "a user's generic class": f"""{CLASSIC}
T = typing.TypeVar('T')
class Box(typing.Generic[T]): ...
@app.activity_trigger(input_name='value')
def act(value: Box[int]): ...
@app.activity_trigger(input_name='value')
def bare(value: Box): ...
""",
    "text for a classic request": f"{ROUTE}def get(req: str): ...",
    "context as the trigger": f"{CLASSIC}@app.activity_trigger(input_name='context')\ndef act(context: int): ...",
    "another class named Context": f"{CLASSIC}class Context: ...\n@app.route()\ndef get(req, context: Context): ...",
}

REFUSED = {
    "generic alias": f"{ACTIVITY}def act(value: dict[str, Any]): ...",
    "generic list": f"{ACTIVITY}def act(value: list[int]): ...",
    "union": f"{ACTIVITY}def act(value: str | None): ...",
    "typing.Optional": f"{ACTIVITY}def act(value: typing.Optional[str]): ...",
    "typing.Union": f"{ACTIVITY}def act(value: typing.Union[str, int]): ...",
    "typing.Tuple": f"{ACTIVITY}def act(value: typing.Tuple[int]): ...",
    "Callable": f"{ACTIVITY}def act(value: typing.Callable[[], int]): ...",
    "type variable": f"{ACTIVITY}def act(value: typing.TypeVar('T')): ...",
    "name only while type checking": (
        f"if __import__('typing').TYPE_CHECKING:\n    from decimal import Decimal\n{ACTIVITY}"
        "def act(value: 'Decimal'): ..."
    ),
    "unresolved return": f"{ACTIVITY}def act(value) -> 'Missing': ...",
    "missing parameter": f"{ACTIVITY}def act(): ...",
    "another parameter": f"{ACTIVITY}def act(other): ...",
    "superfluous parameter": f"{ACTIVITY}def act(value, other=None): ...",
    "arguments": f"{ACTIVITY}def act(value, **others): ...",
    "wrong context": f"{ACTIVITY}def act(value, context: dict): ...",
    "generic context": f"{ACTIVITY}def act(value, context: dict[str, int]): ...",
    "activity with an Out": f"{ACTIVITY}def act(value: func.Out[str]): ...",
    "bare Out": f"{ACTIVITY}def act(value: func.Out): ...",
    "wrong type for a classic request": f"{ROUTE}def get(req: dict): ...",
    "wrong type for a classic response": f"{ROUTE}def get(req: func.HttpRequest) -> dict: ...",
    "nothing for a response": f"{ROUTE}def get(req: func.HttpRequest) -> None: ...",
    "generic response": f"{ROUTE}def get(req) -> list[int]: ...",
    "optional response": f"{ROUTE}def get(req) -> func.HttpResponse | None: ...",
    "FastAPI's request without its extension": f"from fastapi import Request\n{ROUTE}def get(req: Request): ...",
    "mixed: a classic request": f"{STREAMING_ROUTE}def get(req: func.HttpRequest): ...",
    "mixed: both kinds": f"""{STREAMING}
@app.route()
def new(req: Request) -> JSONResponse: ...
@app.route()
def old(req: func.HttpRequest) -> JSONResponse: ...
""",
    "mixed: a classic response": f"{STREAMING_ROUTE}def get(req: Request) -> func.HttpResponse: ...",
    "generic request": f"{STREAMING_ROUTE}def get(req: list[Request]): ...",
    "typing's generic request": f"{STREAMING_ROUTE}def get(req: typing.List[Request]): ...",
    "two functions of one name": f"""{CLASSIC}
@app.activity_trigger(input_name='value')
def act(value): ...
@app.function_name('act')
@app.activity_trigger(input_name='value')
def other(value): ...
""",
    "no trigger": f"{CLASSIC}@app.function_name('act')\ndef act(): ...",
    "two triggers": f"{CLASSIC}@app.activity_trigger(input_name='a')\n@app.route()\ndef act(a, req): ...",
    "two apps": f"{CLASSIC}\nsecond = func.FunctionApp()",
    "one app of two names": f"{CLASSIC}\nsecond = app",
    "no app": "x = 1",
    "no such module": "import no_such_module",
    "it raises": "1 / 0",
    "orchestration context of another type": (
        f"{CLASSIC}from azure.durable_functions.decorators.metadata import OrchestrationTrigger\n"
        "@app._configure_function_builder\n"
        "def raw(builder):\n    builder.add_trigger(OrchestrationTrigger(name='context'))\n    return builder\n"
        "def act(context: int): ...\nraw(act)"
    ),
    "a client that is no text": (
        f"{CLASSIC}@app.generic_input_binding(arg_name='client', type='durableClient')\n"
        "@app.route()\ndef get(req, client: int): ..."
    ),
    "inout": f"""{CLASSIC}
from azure.functions.decorators.core import BindingDirection
from azure.functions.decorators.generic import GenericInputBinding
binding = GenericInputBinding('thing', 'unheardOf')
binding._direction = BindingDirection.INOUT
@app._configure_function_builder
def bound(builder):
    builder.add_binding(binding)
    return builder
@bound
@app.route()
def get(req, thing): ...
""",
    "$return as an input": f"""{CLASSIC}
@app.generic_input_binding(arg_name='$return', type='unheardOf')
@app.activity_trigger(input_name='value')
def act(value): ...
""",
    "wrong type in an Out": (
        f"{CLASSIC}@app.queue_output(arg_name='out', queue_name='q', connection='c')\n"
        "@app.route()\ndef get(req, out: func.Out[int]): ..."
    ),
    "unknown output of no bytes": (
        f"{CLASSIC}@app.generic_output_binding(arg_name='out', type='unheardOf')\n"
        "@app.route()\ndef get(req, out: func.Out[int]): ..."
    ),
    "bare Out of an output": (
        f"{CLASSIC}@app.queue_output(arg_name='out', queue_name='q', connection='c')\n"
        "@app.route()\ndef get(req, out: func.Out): ..."
    ),
    "out without Out": (
        f"{CLASSIC}@app.queue_output(arg_name='out', queue_name='q', connection='c')\n"
        "@app.route()\ndef get(req, out: str): ..."
    ),
    "unknown input that is no text": (
        f"{CLASSIC}@app.generic_input_binding(arg_name='thing', type='unheardOf')\n"
        "@app.route()\ndef get(req, thing: int): ..."
    ),
}

UNSUPPORTED = {
    "queueTrigger": f"{CLASSIC}@app.queue_trigger(arg_name='q', queue_name='q', connection='c')\ndef f(q): ...",
    "unheardOfTrigger": f"{CLASSIC}@app.generic_trigger(arg_name='thing', type='unheardOfTrigger')\ndef f(thing): ...",
    "queue": (
        f"{CLASSIC}@app.queue_output(arg_name='out', queue_name='q', connection='c')\n"
        "@app.route()\ndef f(req, out: func.Out[str]): ..."
    ),
    "unheardOf": (
        f"{CLASSIC}@app.generic_input_binding(arg_name='thing', type='unheardOf')\n"
        "@app.route()\ndef f(req, thing: str): ..."
    ),
}

INVOKED = f"""{CLASSIC}
import threading
@app.activity_trigger(input_name='value')
async def echo(value): return value
@app.activity_trigger(input_name='value')
def on_a_thread(value: str, context: func.Context) -> list:
    is_main = threading.current_thread() is threading.main_thread()
    return [not is_main, context.function_name, len(context.invocation_id)]
@app.activity_trigger(input_name='value')
def raises(value: str): raise LookupError('it raises')
@app.activity_trigger(input_name='value')
def unserialisable(value): return object
@app.orchestration_trigger(context_name='context')
def orchestrate(context): return [context.instance_id]; yield
@app.timer_trigger(arg_name='timer', schedule='0 0 0 1 1 *')
async def tick(timer: func.TimerRequest) -> None:
    if timer.past_due: raise LookupError(timer.schedule_status['Next'])
"""
EVENT = {"EventId": -1, "IsPlayed": False, "Timestamp": "2026-01-01T00:00:00Z"}
ORCHESTRATION = {
    "instanceId": "i",
    "isReplaying": False,
    "parentInstanceId": "",
    "input": None,
    "history": [
        {**EVENT, "EventType": 12},
        {**EVENT, "EventType": 0, "Name": "orchestrate", "Input": None, "Version": ""},
    ],
    "upperSchemaVersion": 0,
}
CALLS = [
    *(("echo", "value", payload) for payload in ("null", '"text"', '{"a": [1]}', "not JSON", '"{}"')),
    ("on_a_thread", "value", "1"),
    ("raises", "value", "1"),
    ("unserialisable", "value", "1"),
    ("orchestrate", "context", json.dumps(ORCHESTRATION)),
    *(
        ("tick", "timer", json.dumps({"IsPastDue": late, "ScheduleStatus": {"Next": "today"}}), "json")
        for late in (False, True)
    ),
]

APPS = {**ACCEPTED, **REFUSED, **UNSUPPORTED, "invoked": INVOKED}
Outcomes = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What each worker makes of each app."""
    directories = {}
    for name, source in APPS.items():
        directories[name] = tmp_path_factory.mktemp("app")
        if source is not None:
            (directories[name] / "function_app.py").write_text(source)
    (directories["invoked"] / "calls.json").write_text(json.dumps(CALLS))
    return {worker: dict(zip(APPS, loaded(worker, list(directories.values())), strict=True)) for worker in WORKERS}


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("app", ACCEPTED)
def test_accepted(outcomes: Outcomes, worker: str, app: str) -> None:
    assert "functions" in outcomes[worker][app], outcomes[worker][app]
    assert outcomes[worker][app] == outcomes["small"][app]


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("app", REFUSED)
def test_refused(outcomes: Outcomes, worker: str, app: str) -> None:
    outcome = outcomes[worker][app]
    assert outcome.get("refused by") == "worker", outcome
    # The small one by a rule, not by chance.
    assert worker == "library" or not outcome["message"].startswith(("TypeError", "IndexError", "AttributeError"))


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("binding", UNSUPPORTED)
def test_accepted_by_the_worker_and_refused_by_this_host(outcomes: Outcomes, worker: str, binding: str) -> None:
    assert outcomes[worker][binding].get("refused by") == "host", outcomes[worker][binding]
    assert "the f function: this host does not implement the" in outcomes[worker][binding]["message"]
    assert binding in outcomes[worker][binding]["message"]


@pytest.mark.parametrize("worker", WORKERS)
def test_invocations(outcomes: Outcomes, worker: str) -> None:
    results = outcomes[worker]["invoked"]["invocations"]
    assert results[:7] == [
        ["returned", "json", "null"],
        ["returned", "json", '"text"'],
        ["returned", "json", '{"a": [1]}'],
        ["returned", "json", '"not JSON"'],
        ["returned", "json", '"{}"'],
        ["returned", "json", '[true, "on_a_thread", 36]'],
        ["failed", "LookupError: it raises", "LookupError: it raises"],
    ]
    assert results[7][0] == "failed"
    assert json.loads(results[8][2])["output"] == ["i"]
    assert results[9:] == [["returned"], ["failed", "LookupError: today", "LookupError: today"]]


def test_what_is_indexed(outcomes: Outcomes) -> None:
    """Neither of them is only compared with the other."""
    bindings = outcomes["small"]["classic"]["bindings"]
    assert bindings["items"][0]["methods"] == ["GET", "POST"]
    assert [function.split("'")[1] for function in outcomes["small"]["durable"]["functions"]] == [
        "Renamed",
        "Counter",
        "work",
        "named",
    ]
    assert outcomes["small"]["no file"]["functions"] == []
    assert [outcomes["small"][app]["serves http"] for app in ("classic", "streaming")] == [False, True]
