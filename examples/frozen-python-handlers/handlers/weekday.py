import calendar
import datetime

NAMES = list(calendar.day_name)


def handle(event):
    day = datetime.date.fromisoformat(event["date"])
    return {"weekday": NAMES[day.weekday()], "days": calendar.monthrange(day.year, day.month)[1]}
