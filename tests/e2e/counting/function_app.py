"""The app, and a function that tells how many requests the worker's library remembers."""

import os
from typing import Any

import azure.functions as func
from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient
from azure_functions_runtime.http_v2 import http_coordinator
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response

from agentstream import Settings, streaming_app

client = OpenAIChatCompletionClient("test-model", api_key="none", base_url=os.environ["OPENAI_BASE_URL"])
app: Any = streaming_app([Agent(client, "Answer.", name="TravelPlanner")], Settings.load())


async def remembered(req: Request) -> Response:
    return JSONResponse(len(http_coordinator._context_references))


app.route(route="remembered", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)(remembered)
