"""Timer functions that write to journals what they are told."""

import asyncio
import json
import os
from pathlib import Path

import azure.functions as func

app = func.FunctionApp()
DIRECTORY = Path(os.environ["JOURNAL_DIR"])


def journal(name: str, line: object) -> None:
    with (DIRECTORY / name).open("a") as file:
        file.write(f"{json.dumps(line)}\n")


@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
def every_second(timer: func.TimerRequest) -> None:
    status = timer.schedule_status  # type: ignore[attr-defined]
    journal("every_second", [timer.past_due, status["Last"], status["Next"]])


@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
async def held(timer: func.TimerRequest) -> None:
    """Wait at a gate, a file that the test creates."""
    journal("held.began", timer.past_due)
    while not (DIRECTORY / "gate").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    journal("held.ended", timer.past_due)


@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
def fails(timer: func.TimerRequest) -> None:
    journal("fails", timer.past_due)
    raise LookupError("as planned")


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
def yearly(timer: func.TimerRequest) -> None:
    journal("yearly", timer.past_due)


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True)
def at_start(timer: func.TimerRequest) -> None:
    journal("at_start", timer.past_due)
