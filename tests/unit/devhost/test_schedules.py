"""NCRONTAB expressions."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devhost.schedules import next_time


def due(schedule: str, after: str) -> str:
    seconds = next_time(schedule, datetime.fromisoformat(after).replace(tzinfo=UTC).timestamp())
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("schedule", "next_due"),
    [
        ("* * * * * *", "2026-11-24 19:00:02"),
        ("*/15 * * * * *", "2026-11-24 19:00:15"),
        ("0 */5 * * * *", "2026-11-24 19:05:00"),
        ("0 0 * * * *", "2026-11-24 20:00:00"),
        ("0 0 9-17 * * *", "2026-11-25 09:00:00"),
        ("0 30 9 * Jan Mon", "2027-01-04 09:30:00"),
        # The thirteenth only where it is a Friday.
        ("0 0 0 13 * 5", "2027-08-13 00:00:00"),
    ],
)
def test_the_first_field_is_the_second_and_days_have_to_fit_both_fields(schedule: str, next_due: str) -> None:
    assert due(schedule, "2026-11-24 19:00:01") == next_due


@pytest.mark.parametrize(
    "schedule", ["* * * * *", "* * * * * * *", "@hourly", "00:05:00", "61 * * * * *", "x * * * * *"]
)
def test_what_is_no_schedule_is_refused_by_name(schedule: str) -> None:
    with pytest.raises(ValueError, match=schedule.replace("*", r"\*")):
        next_time(schedule, 0)


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="0 0 0 30 2"):
        next_time("0 0 0 30 2 *", 0)


@given(
    second=st.integers(0, 59),
    minute=st.integers(0, 59),
    after=st.floats(0, 4e9, allow_nan=False),
)
def test_the_next_time_is_the_first_that_fits(second: int, minute: int, after: float) -> None:
    found = next_time(f"{second} {minute} * * * *", after)

    assert after < found <= after + 3600
    assert found % 3600 == minute * 60 + second
