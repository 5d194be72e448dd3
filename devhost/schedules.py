"""NCRONTAB: the schedules of timer triggers, six fields of which the first is the second.

https://learn.microsoft.com/azure/azure-functions/functions-bindings-timer#ncrontab-expressions
"""

from croniter import CroniterError, croniter

FIELDS = 6


def next_time(schedule: str, after: float) -> float:
    """Return when a schedule is due next after a time; both in seconds since the epoch, the schedule's fields in UTC.

    Raises:
        ValueError: it is no schedule of six fields, or there is no such time.
    """
    if len(schedule.split()) != FIELDS:
        raise ValueError(f"{schedule!r} does not have {FIELDS} fields")
    try:
        # A day has to fit both the day of the month and the day of the week, other than for cron (Crontab-NCrontab of
        # atifaziz/NCrontab, ``CrontabSchedule.cs``).
        times = croniter(schedule, after, second_at_beginning=True, day_or=False)
        return float(times.get_next(float))
    except CroniterError as error:
        raise ValueError(f"{schedule!r}: {error}") from None
