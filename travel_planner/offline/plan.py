"""The text of an offline plan."""

from collections.abc import Mapping

from travel_planner.tools import SAMPLE, stable_number

ASK_FOR_DESTINATION = "Where would you like to go, and for how many days? For example: *Plan a 3-day trip to Tokyo.*"

_OUTLINES = (
    "The old town | the oldest streets before the crowds | the great landmark | a restaurant that locals recommend",
    "Markets and museums | breakfast in the market hall | the museum that interests you most | a concert",
    "A day of green | the largest park by bicycle | tea in the botanical garden | a picnic at sunset",
    "By the water | a walk along the shore | a boat trip | dinner at a table with a view",
    "Art and architecture | the boldest new buildings | the art gallery | a rooftop bar",
    "History | the site that shaped the place | the former home of someone famous | a night walk with stories",
    "Up high | the viewpoint everyone talks about | the way down on foot | a neighbourhood bistro",
    "Out of town | a train to a village | a walk there and a late lunch | back for a quiet drink",
    "Off the beaten track | a district of no guidebook | its workshops and bakeries | dinner on its busiest street",
    "A slow day | sleep in, then brunch | a bathhouse or a pool | gifts, and your favourite place once more",
)
MAX_DAYS = len(_OUTLINES)


def write_plan(destination: str, days: int, reports: Mapping[str, str]) -> str:
    """Return the plan in Markdown, of at most ``MAX_DAYS``, with what the tools told under ``<tool>:<day>``."""
    # Each place has an order of its own, and a longer trip goes on where the shorter one ended.
    outlines = sorted(_OUTLINES, key=lambda outline: stable_number(2**64, destination, outline))[:days]
    paragraphs = [f"# {len(outlines)} {'day' if days == 1 else 'days'} in {destination}"]
    if days > MAX_DAYS:
        paragraphs.append(f"You asked for more than I plan at once, so here are the first {MAX_DAYS} days.")
    paragraphs.append(f"*Everything here is {SAMPLE}: no model was asked.*")
    paragraphs += [_day(day, outline, reports) for day, outline in enumerate(outlines, 1)]
    paragraphs.append("Tell me what to change: another place, more days or fewer.")
    return "\n\n".join(paragraphs) + "\n"


def _day(day: int, outline: str, reports: Mapping[str, str]) -> str:
    title, *parts = outline.split(" | ")
    lines = [f"## Day {day}: {title}", ""]
    lines += [f"- **{when}:** {what}" for when, what in zip(("Morning", "Afternoon", "Evening"), parts, strict=True)]
    for label, tool in (("Weather", "get_weather_forecast"), ("What's on", "get_local_events")):
        report = reports.get(f"{tool}:{day}")
        if report:
            lines.append(f"- **{label}:** {report}")
    return "\n".join(lines)
