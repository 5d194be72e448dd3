import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.trip_request import DEFAULT_DAYS, TripRequest, read_trip

CITIES = [
    "Tokyo",
    "New York City",
    "São Paulo",
    "Rio de Janeiro",
    "München",
    "東京",
    "Isle of Man",
    "St. Lucia",
    "Łódź",
]


@pytest.mark.parametrize("city", CITIES)
@pytest.mark.parametrize(
    "message",
    [
        "Plan a 4-day trip to {0}",
        "I would like to visit {0} for four days, please.",
        "4 days in {0} with two kids",
        "{0}, 4 days",
        "Can you write an itinerary for {0} in May? We have 4 days.",
        "Please plan 4 nights in {0}!",
    ],
)
def test_destination_and_days_are_found(message: str, city: str) -> None:
    assert read_trip([message.format(city)]) == TripRequest(city, 4)


@pytest.mark.parametrize(
    ("messages", "trip"),
    [
        (["Plan a 3-day trip to Tokyo", "make it five days"], TripRequest("Tokyo", 5)),
        (["Plan a 3-day trip to Tokyo", "What about Rome instead?"], TripRequest("Rome", 3)),
        (["Plan a 3-day trip to Tokyo", "Rome", "add a day"], TripRequest("Rome", 4)),
        (["Plan a 3-day trip to Tokyo", "add two more days", "one day less"], TripRequest("Tokyo", 4)),
        (["Plan a 5-day trip to Tokyo", "shorter: two days"], TripRequest("Tokyo", 2)),
        (["Plan a 5-day trip to Tokyo", "remove two days"], TripRequest("Tokyo", 3)),
        (["A week in Oslo"], TripRequest("Oslo", 7)),
        (["A weekend in Oslo"], TripRequest("Oslo", 2)),
        (["weekend in oslo"], TripRequest("Oslo", 2)),
        (["two weeks in Oslo"], TripRequest("Oslo", 14)),
        (["a fortnight in Oslo"], TripRequest("Oslo", 14)),
        (["plan a trip to new york"], TripRequest("New York", DEFAULT_DAYS)),
        (["Hello", "Paris"], TripRequest("Paris", DEFAULT_DAYS)),
        (["Trip to Oslo", "thanks, that is great"], TripRequest("Oslo", DEFAULT_DAYS)),
        (["Make me a sandwich"], TripRequest(None, DEFAULT_DAYS)),
        (["I want to relax in May"], TripRequest(None, DEFAULT_DAYS)),
        ([], TripRequest(None, DEFAULT_DAYS)),
    ],
)
def test_later_messages_change_what_earlier_ones_said(messages: list[str], trip: TripRequest) -> None:
    assert read_trip(messages) == trip


@given(st.sampled_from(CITIES), st.integers(1, 9999))
def test_any_number_of_days_is_read(city: str, days: int) -> None:
    assert read_trip([f"Plan a {days}-day trip to {city}"]) == TripRequest(city, days)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_is_read_without_harm(messages: list[str]) -> None:
    assert read_trip(messages).days >= 1
