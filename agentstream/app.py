"""Puts the parts together: agents and settings in, a Functions app out."""

import gc
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import azure.durable_functions as df
from agent_framework import SupportsAgentRun

from agentstream.attempt.entity import create_agent_entities
from agentstream.http.origins import Origins
from agentstream.http.routes import create_http_functions
from agentstream.http.web_files import create_web_functions
from agentstream.runs.orchestration import create_run_functions
from agentstream.runs.retention import create_retention_function
from agentstream.settings import Settings
from agentstream.stream.clients import Streams, make_default

SWITCH_SECONDS = 0.0005
# Of Python's collector of garbage, in allocations and collections of the generation before. By its defaults it looks
# through what a thousand runs hold again and again, for 15 % of the processor time and up to 0.6 s in which nothing
# else is done; by these for 7 %, and 0.2 s.
GARBAGE_THRESHOLDS = (10_000, 10, 20)


def streaming_app(
    agents: Sequence[SupportsAgentRun], settings: Settings, *, route_prefix: str = "api", web: Path | None = None
) -> df.DFApp:
    """Return a Functions app that runs these agents and streams their answers.

    Args:
        agents: The agents, each under the name that its routes have.
        settings: The app's settings; ``get_stream_handler`` answers with them, too.
        route_prefix: What the host puts before all routes (``extensions.http.routePrefix`` in host.json).
        web: A folder of files to be served under ``chat``, its ``index.html`` as ``chat`` itself; None for no page.
    """
    app = df.DFApp()
    for functions in streaming_functions(agents, settings, route_prefix=route_prefix, web=web):
        app.register_functions(functions)
    # What the imports made is never garbage, and to look through it at every full collection holds up all followers.
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    # The agents' loop is a thread, and after each of its system calls HTTP's loop may have to wait for that to be
    # interrupted: by default 5 ms each time, of which a request has dozens.
    sys.setswitchinterval(SWITCH_SECONDS)
    return app


def streaming_functions(
    agents: Sequence[SupportsAgentRun], settings: Settings, *, route_prefix: str = "api", web: Path | None = None
) -> Iterable[df.Blueprint]:
    """Return the functions of such an app, to be registered with one of your own.

    All HTTP functions of that app have to take and return the types of ``azurefunctions.extensions.http.fastapi``: that
    is what makes a Python function's response stream, and it holds for all of them or none.

    Args:
        agents: The agents, each under the name that its routes have.
        settings: The app's settings; ``get_stream_handler`` answers with them, too.
        route_prefix: What the host puts before all routes (``extensions.http.routePrefix`` in host.json).
        web: A folder of files to be served under ``chat``, its ``index.html`` as ``chat`` itself; None for no page.
    """
    streams = Streams(settings)
    make_default(streams)
    names = [str(agent.name) for agent in agents]
    retention = (create_retention_function(settings, names, streams.get),) if settings.retention_days else ()
    return (
        create_agent_entities(
            agents,
            fallback=settings.non_streaming_fallback,
            max_runs=settings.max_runs_at_a_time,
            max_tool_result_bytes=settings.max_tool_result_bytes,
            max_tools=settings.max_tools_at_a_time,
            get_stream=streams.get,
        ),
        create_run_functions(streams.get),
        create_http_functions(settings, names, streams.get, route_prefix=route_prefix),
        create_web_functions(web, Origins(settings.allowed_origins)),
        *retention,
    )
