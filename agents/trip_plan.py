"""The text of an offline plan."""

import re
from collections.abc import Mapping

from agents.travel_tools import SAMPLE
from agents.trip_request import MAX_DAYS

RAINY_PERCENT = 60

# A title, a morning, an afternoon and an evening for each of the days that can be planned.
_DAYS = (
    (
        "Arrival and first steps",
        "settle in and stroll through your neighbourhood",
        "the main square and a café to watch it from",
        "an early dinner near your hotel",
    ),
    (
        "The old town",
        "the oldest streets, before the crowds come",
        "the great landmark, with a ticket booked ahead",
        "a traditional restaurant that locals recommend",
    ),
    (
        "Markets and museums",
        "the market halls, and breakfast at a stall",
        "the museum that interests you most; two hours are enough",
        "a show or a concert",
    ),
    (
        "A day of green",
        "the largest park, by bicycle if you like",
        "the botanical garden, or a boat on the water",
        "a picnic at sunset",
    ),
    (
        "Out of town",
        "a regional train to a village within an hour",
        "a walk there, and a late lunch at an inn",
        "back in time for a quiet drink",
    ),
    (
        "A neighbourhood of its own",
        "a district no guidebook leads with",
        "its workshops, bookshops and bakeries",
        "its busiest street for dinner",
    ),
    (
        "On the water",
        "the harbour, the river or the lake",
        "a ferry to the other side",
        "fish, and a table with a view",
    ),
    (
        "Art and architecture",
        "the modern quarter and its boldest buildings",
        "the art gallery",
        "a rooftop bar",
    ),
    (
        "Cook and taste",
        "a cooking class with a market tour",
        "a nap; you have earned it",
        "what you cooked, or a tasting menu",
    ),
    (
        "Up high",
        "the viewpoint everyone talks about, early",
        "the way down on foot",
        "a neighbourhood bistro",
    ),
    (
        "History",
        "the site that shaped the place, with a guide",
        "the archive or the house of someone famous",
        "a night walk with stories",
    ),
    (
        "Slow day",
        "sleep in, then brunch",
        "a bath house, a beach or a spa",
        "a film or a board game café",
    ),
    (
        "Gifts and goodbyes",
        "craft shops for things worth carrying home",
        "once more to your favourite place",
        "dinner where you felt at home",
    ),
    (
        "Departure",
        "pack, and one last coffee",
        "leave in good time for the airport or the station",
        "a last look from the window",
    ),
)
_CHANCE_OF_RAIN = re.compile(r"(\d+) % chance of rain")


def ask_for_destination() -> str:
    """Return the answer to messages that name no place."""
    return "Where would you like to go, and for how many days? For example: *Plan a 3-day trip to Tokyo.*"


def write_plan(destination: str, days: int, reports: Mapping[str, str]) -> str:
    """Return the plan in Markdown.

    Args:
        destination: The place.
        days: How many days were asked for; at most ``MAX_DAYS`` are planned.
        reports: What the tools answered, under ``<tool>:<day>``.
    """
    planned = min(days, MAX_DAYS)
    paragraphs = [f"# {planned} {'day' if planned == 1 else 'days'} in {destination}"]
    if days > planned:
        paragraphs.append(f"You asked for {days} days; I plan at most {MAX_DAYS} at a time, so here are the first.")
    if reports:
        paragraphs.append(f"*The weather and the events are {SAMPLE}.*")
    for day in range(1, planned + 1):
        paragraphs.append(_day(day, reports))
    paragraphs.append("Tell me what to change: another place, more days or fewer.")
    return "\n\n".join(paragraphs) + "\n"


def _day(day: int, reports: Mapping[str, str]) -> str:
    title, morning, afternoon, evening = _DAYS[day - 1]
    lines = [f"## Day {day}: {title}", ""]
    forecast, events = (_report(reports, tool, day) for tool in ("get_weather_forecast", "get_local_events"))
    if forecast:
        lines += [f"**Weather:** {forecast}.{_advice(forecast)}", ""]
    lines += [f"- **Morning:** {morning}.", f"- **Afternoon:** {afternoon}.", f"- **Evening:** {evening}."]
    if events:
        lines += [f"- **On today:** {events}."]
    return "\n".join(lines)


def _report(reports: Mapping[str, str], tool: str, day: int) -> str:
    return reports.get(f"{tool}:{day}", "").removesuffix(f" ({SAMPLE})")


def _advice(forecast: str) -> str:
    chance = _CHANCE_OF_RAIN.search(forecast)
    if chance is None or int(chance.group(1)) < RAINY_PERCENT:
        return ""
    return " Take an umbrella, and swap what is outdoors for a museum if it pours."
