from travel_planner.offline.plan import MAX_DAYS, write_plan


def titles(plan: str) -> list[str]:
    return [line.partition(": ")[2] for line in plan.splitlines() if line.startswith("## Day ")]


def test_a_plan_has_a_title_every_day_and_what_the_tools_told() -> None:
    plan = write_plan("Tokyo", 2, {"get_weather_forecast:1": "Sunny", "get_local_events:2": "20:00 concert"})

    assert plan.startswith("# 2 days in Tokyo\n\n")
    assert "sample data" in plan
    first, second = plan.partition("## Day 2: ")[::2]
    assert "## Day 1: " in first
    assert "- **Weather:** Sunny\n" in first
    assert "What's on" not in first
    assert "- **What's on:** 20:00 concert\n" in second
    assert "Weather" not in second
    assert "## Day 3" not in second


def test_one_day_is_no_days() -> None:
    assert write_plan("Oslo", 1, {}).startswith("# 1 day in Oslo\n")


def test_the_same_question_has_the_same_plan_and_another_place_another_one() -> None:
    assert write_plan("Tokyo", 5, {}) == write_plan("Tokyo", 5, {})
    assert titles(write_plan("Tokyo", 5, {})) != titles(write_plan("Lima", 5, {}))


def test_a_longer_trip_goes_on_where_the_shorter_one_ended() -> None:
    assert titles(write_plan("Peru", MAX_DAYS, {}))[:3] == titles(write_plan("Peru", 3, {}))


def test_more_days_than_can_be_planned_are_told_and_no_day_comes_twice() -> None:
    plan = write_plan("Peru", MAX_DAYS + 1, {})

    assert f"the first {MAX_DAYS} days" in plan
    assert len(set(titles(plan))) == len(titles(plan)) == MAX_DAYS
    assert "the first" not in write_plan("Peru", MAX_DAYS, {})
