"""The text of an offline plan."""

import re
from collections.abc import Mapping

from agents.travel_tools import SAMPLE, stable_number
from agents.trip_request import MAX_DAYS, TripRequest

# A title, a morning, an afternoon and an evening.
_ARRIVAL = (
    "Arrival and first steps | Settle in and stroll through your neighbourhood"
    " | The main square, and a café to watch it from | An early dinner near your hotel"
)
_SIGHTS = (
    "The old town | The oldest streets, before the crowds come"
    " | The great landmark, with a ticket booked ahead | A traditional restaurant that locals recommend",
    "Markets and museums | The market halls, and breakfast at a stall"
    " | The museum that interests you most; two hours are enough | A show or a concert",
    "A day of green | The largest park, by bicycle if you like"
    " | The botanical garden, with tea in its café | A picnic at sunset",
    "By the water | A walk along the river, the lake or the shore"
    " | A boat trip, or a bench with a view | Dinner at a table with a view",
    "Art and architecture | The modern quarter and its boldest buildings | The art gallery | A rooftop bar",
    "History | The site that shaped the place, with a guide"
    " | The former home of someone famous | A night walk with stories",
    "Up high | The viewpoint everyone talks about, early | The way down on foot | A neighbourhood bistro",
)
_LEISURE = (
    "Out of town | A regional train to a village within an hour"
    " | A walk there, and a late lunch at an inn | Back in time for a quiet drink",
    "Off the beaten track | A district that no guidebook leads with"
    " | Its workshops, bookshops and bakeries | Dinner on its busiest street",
    "Cook and taste | A cooking class with a market tour"
    " | A nap; you have earned it | A tasting menu, or leftovers of your own making",
    "A slow day | Sleep in, then brunch | A bathhouse, a pool or a spa | A film, or an evening of board games",
    "Music and nightlife | A late breakfast and a record shop"
    " | The quarter around the concert halls, by daylight | Live music in a small club",
    "Gifts and favourites | Craft shops, for things worth carrying home"
    " | Once more to your favourite place | Dinner where you felt at home",
)
_WET = re.compile(r"(?:[6-9]\d|100)% chance of (?:rain|snow)")


def ask_for_destination() -> str:
    """Return the answer to messages that name no place."""
    return "Where would you like to go, and for how many days? For example: *Plan a 3-day trip to Tokyo.*"


def write_plan(destination: str, trip: TripRequest, reports: Mapping[str, str]) -> str:
    """Return the plan in Markdown.

    Args:
        destination: The place.
        trip: How long and when; at most ``MAX_DAYS`` are planned.
        reports: What the tools answered, under ``<tool>:<day>``.
    """
    planned = min(trip.days, MAX_DAYS)
    when = f" ({trip.month})" if trip.month else ""
    paragraphs = [f"# {planned} {'day' if planned == 1 else 'days'} in {destination}{when}"]
    if trip.days > planned:
        paragraphs.append(f"You asked for more than I plan at once, so here are the first {MAX_DAYS} days.")
    if any(reports.values()):
        paragraphs.append(f"*The weather and the events are {SAMPLE}.*")
    for day, outline in enumerate(_outlines(destination, planned), 1):
        paragraphs.append(_day(day, outline, reports))
    paragraphs.append("Tell me what to change: another place, more days or fewer.")
    return "\n\n".join(paragraphs) + "\n"


def _outlines(destination: str, days: int) -> list[str]:
    # Each place has an order of its own, and a longer trip goes on where the shorter one ended.
    def rank(outline: str) -> int:
        return stable_number(2**64, destination, outline)

    ordered = sorted(_SIGHTS, key=rank) + sorted(_LEISURE, key=rank)
    return [_ARRIVAL, *ordered][:days] if days > 1 else ordered[:days]


def _day(day: int, outline: str, reports: Mapping[str, str]) -> str:
    title, morning, afternoon, evening = outline.split(" | ")
    lines = [f"## Day {day}: {title}", ""]
    forecast, events = (_report(reports, tool, day) for tool in ("get_weather_forecast", "get_local_events"))
    if forecast:
        lines += [f"**Weather:** {forecast}.{_advice(forecast)}", ""]
    lines += [f"- **Morning:** {morning}.", f"- **Afternoon:** {afternoon}.", f"- **Evening:** {evening}."]
    if events:
        lines += [f"- **What's on:** {events}."]
    return "\n".join(lines)


def _report(reports: Mapping[str, str], tool: str, day: int) -> str:
    return reports.get(f"{tool}:{day}", "").removesuffix(f" ({SAMPLE})")


def _advice(forecast: str) -> str:
    if not _WET.search(forecast):
        return ""
    return " Dress for it, and swap what is outdoors for a museum if it is too wet."
