"""The travel planner: plans a trip day by day, with the weather and what is on."""

from typing import Any

from agent_framework import Agent, BaseChatClient

from travel_planner.tools import get_local_events, get_weather_forecast

INSTRUCTIONS = """
You are an experienced travel planner. Given a destination and a length of stay, write an itinerary day by day.

For every day: a title; something for the morning, the afternoon and the evening; one place to eat; how to get around.
Ask the weather forecast and the local events for each day before you write, let them shape the plan, and say so where
they do. Where the message leaves something open, use what the conversation has told you so far, else choose sensibly
and say what you assumed. Write in the user's language, in Markdown.
"""


def create_travel_planner(chat_client: BaseChatClient[Any]) -> Agent:
    """Return the agent named ``TravelPlanner``."""
    return Agent(
        chat_client,
        INSTRUCTIONS,
        name="TravelPlanner",
        description="Plans trips day by day.",
        tools=[get_weather_forecast, get_local_events],
    )
