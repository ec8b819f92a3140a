"""Django settings of a project's own Label Studio: its own, with a database that many people may write to at once.

Label Studio leaves SQLite as it comes: a writer that waits for more than 5 s, or that has read before another wrote,
is refused with "database is locked", which a browser shows as an error 500. On a slow disk two people who sign in at
the same time are enough. Here a transaction takes its place in the line when it begins and waits for a minute, and
readers are kept waiting by nobody (write-ahead log, with every commit synced to the disk as before). The labeling
screen gets a few keys more (``label_studio_keys``).
"""

from core.settings.base import *  # noqa: F403
from core.settings.base import DATABASES_ALL

SENTRY_DSN = ""  # what the next import asks of these settings while they are still being made
DATABASES_ALL["sqlite"]["OPTIONS"] = {
    "timeout": 60,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
}

from core.settings.label_studio import *  # noqa: E402, F403
from core.settings.label_studio import MIDDLEWARE  # noqa: E402

MIDDLEWARE.append("labeling.label_studio_keys.AddKeys")
