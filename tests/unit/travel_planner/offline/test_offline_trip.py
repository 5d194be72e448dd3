import pytest
from hypothesis import given
from hypothesis import strategies as st

from travel_planner.offline.trip import Trip, read_trip


@pytest.mark.parametrize(
    ("message", "trip"),
    [
        ("Plan a 3-day trip to Tokyo", Trip("Tokyo", 3)),
        ("Plan a 4-day trip to New York City, please.", Trip("New York City", 4)),
        ("A week in Rome", Trip("Rome", 7)),
        ("A weekend in São Paulo!", Trip("São Paulo", 2)),
        ("two weeks in Oslo with two kids", Trip("Oslo", 14)),
        ("New York for 4 days", Trip("New York", 4)),
        ("Kyoto, ten days", Trip("Kyoto", 10)),
        ("I would like to visit Rio de Janeiro for five nights", Trip("Rio de Janeiro", 5)),
        ("plan a trip to rio de janeiro", Trip("Rio de Janeiro")),
        ("4 days in new york city please", Trip("New York City", 4)),
        ("Two days in May in Oslo", Trip("Oslo", 2)),
        ("東京", Trip("東京")),
        ("Plan a 9999-day trip to दिल्ली", Trip("दिल्ली", 9999)),
        (f"A {'9' * 5000}-day trip to Rome", Trip("Rome")),
        # Regular expressions that ignore case take this letter for an s.
        ("ſix days in Rome", Trip("Rome")),
        ("TWO DAYS IN ROME", Trip("ROME", 2)),
        ("Plane eine Reise nach Rom", Trip()),
        ("Plan something for 5 days", Trip(None, 5)),
        ("Hello, can you help me?", Trip()),
        ("Thanks!", Trip()),
        ("I want to relax", Trip()),
        ("", Trip()),
    ],
)
def test_a_message_names_a_place_and_days(message: str, trip: Trip) -> None:
    assert read_trip([message]) == trip


@pytest.mark.parametrize(
    ("message", "trip"),
    [
        ("make it five days", Trip("Tokyo", 5)),
        ("add a day", Trip("Tokyo", 4)),
        ("two more days please", Trip("Tokyo", 5)),
        ("one day less", Trip("Tokyo", 2)),
        ("remove nine days", Trip("Tokyo", 1)),
        ("and now Kyoto instead", Trip("Kyoto", 3)),
        ("What about Rome?", Trip("Rome", 3)),
        ("make it Lima", Trip("Lima", 3)),
        ("Rome instead, for a week", Trip("Rome", 7)),
        ("Great, thanks", Trip("Tokyo", 3)),
        ("what should I do on day 2?", Trip("Tokyo", 3)),
        ("Can you include Shibuya?", Trip("Tokyo", 3)),
    ],
)
def test_a_follow_up_changes_what_it_names(message: str, trip: Trip) -> None:
    assert read_trip(["Plan a 3-day trip to Tokyo", message]) == trip


def test_the_place_may_come_after_the_days() -> None:
    assert read_trip(["add 5 days", "Rome"]) == Trip("Rome", 5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_is_read_without_harm(messages: list[str]) -> None:
    assert read_trip(messages).days >= 1


# Words that it knows reach far more of it than any text does.
@given(st.lists(st.lists(st.sampled_from("Tokyo 3 days in to the da add a week less 東京 ' . - now I'm May".split()))))
def test_any_mix_of_its_words_is_read_without_harm(messages: list[list[str]]) -> None:
    trip = read_trip(" ".join(words) for words in messages)

    assert trip.days >= 1
    assert trip.destination is None or trip.destination.strip()
