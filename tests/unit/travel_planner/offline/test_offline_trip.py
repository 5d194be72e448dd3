import string
import time

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
    "Côte d'Ivoire",
    "दिल्ली",
    "Sa\u0303o Paulo",
    "the Netherlands",
]
# No word of the language begins like this, so that none of them is a number, a month or a greeting.
LATIN_NAMES = st.text(string.ascii_lowercase, max_size=12).map(lambda rest: f"Zq{rest}")
HAN_NAMES = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1, max_size=6)
NAMES = st.one_of(st.lists(LATIN_NAMES, min_size=1, max_size=4).map(" ".join), HAN_NAMES)


@pytest.mark.parametrize("city", CITIES)
@pytest.mark.parametrize(
    "message",
    [
        "Plan a 4-day trip to {0}",
        "I would like to visit {0} for four days, please.",
        "4 days in {0} with two kids",
        "{0}, 4 days",
        "Can you write an itinerary for {0}? We have 4 days.",
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
        (["I want to relax in May"], TripRequest(None, DEFAULT_DAYS, "May")),
        (["4 days in Rome in late july", "what about Oslo?"], TripRequest("Oslo", 4, "July")),
        (["Plan a trip to try sushi in Osaka"], TripRequest("Osaka", DEFAULT_DAYS)),
        (["Flying from London to Lisbon, 4 days"], TripRequest("Lisbon", 4)),
        (["visit rio de janeiro"], TripRequest("Rio de Janeiro", DEFAULT_DAYS)),
        (["new york city"], TripRequest("New York City", DEFAULT_DAYS)),
        (["Surprise me"], TripRequest(None, DEFAULT_DAYS)),
        (["I'm hungry"], TripRequest(None, DEFAULT_DAYS)),
        (["Twenty-one days in Peru"], TripRequest("Peru", 21)),
        (["a couple of days in Peru"], TripRequest("Peru", 2)),
        (["A long weekend in Oslo"], TripRequest("Oslo", 3)),
        (["Plan a trip to Rome next week"], TripRequest("Rome", DEFAULT_DAYS)),
        (["Drop us in Rome for 4 days"], TripRequest("Rome", 4)),
        ([], TripRequest(None, DEFAULT_DAYS)),
    ],
)
def test_later_messages_change_what_earlier_ones_said(messages: list[str], trip: TripRequest) -> None:
    assert read_trip(messages) == trip


@pytest.mark.parametrize(
    ("message", "days"),
    [
        ("cut a day", 2),
        ("shorten by one day", 2),
        ("one less day", 2),
        ("cut it to two days", 2),
        ("shorter please", 2),
        ("make it longer", 4),
        ("an extra day please", 4),
        ("extend it to 5 days", 5),
        ("make it 5", 5),
        ("five", 5),
        ("remove 9 days", 1),
    ],
)
def test_a_follow_up_changes_the_days(message: str, days: int) -> None:
    assert read_trip(["Plan a 3-day trip to Tokyo", message]) == TripRequest("Tokyo", days)


@pytest.mark.parametrize("message", ["Actually I meant Rome", "Rome please", "rather Rome", "switch to Rome"])
def test_a_follow_up_changes_the_destination(message: str) -> None:
    assert read_trip(["Plan a 3-day trip to Tokyo", message]) == TripRequest("Rome", 3)


@pytest.mark.parametrize(
    "message",
    [
        "Great, thanks",
        "Nice!",
        "Can you include Shibuya?",
        "We love Sushi",
        "In English please",
        "what should I do on day 2?",
        "more museums",
        "Explain day 2",
    ],
)
def test_talk_about_the_plan_changes_nothing(message: str) -> None:
    assert read_trip(["Plan a 3-day trip to Tokyo", message]) == TripRequest("Tokyo", 3)


@given(NAMES, st.integers(1, 9999))
def test_any_destination_and_days_are_read(name: str, days: int) -> None:
    for message in (f"Plan a {days}-day trip to {name}", f"{days} days in {name}, please", f"{name} for {days} days"):
        assert read_trip([message]) == TripRequest(name, days)


@given(st.sampled_from(CITIES), st.integers(1, 9999))
def test_any_number_of_days_is_read(city: str, days: int) -> None:
    assert read_trip([f"Plan a {days}-day trip to {city}"]) == TripRequest(city, days)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_is_read_without_harm(messages: list[str]) -> None:
    trip = read_trip(messages)
    assert trip.days >= 1
    assert trip.destination is None or trip.destination.strip()


# Words of the grammar reach far more of the parser than any text does.
@given(st.lists(st.lists(st.sampled_from("Tokyo 3 days in to the of add a week 東京 ' . - less the I'm May".split()))))
def test_any_mix_of_its_words_is_read_without_harm(messages: list[list[str]]) -> None:
    assert read_trip(" ".join(words) for words in messages).days >= 1


@pytest.mark.parametrize("piece", ["a ", "1", "X ", "in the "])
def test_a_long_message_is_read_in_time_that_grows_with_its_length(piece: str) -> None:
    start = time.perf_counter()

    read_trip([piece * (500_000 // len(piece))])

    # About a second; a reader that copies the rest of the message for every word takes ten times as long.
    assert time.perf_counter() - start < 5
