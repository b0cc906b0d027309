"""Decodes dashboards with Grafana's own model and prints what it does not know.

The model drops unknown keys without a word: what was put in is compared with what comes out again, key by
key. Arguments are files; each line of output is a file and a key or unit.
"""

import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

plugins.register_default_plugins()
UNITS = {value for value in vars(units).values() if isinstance(value, str)}


def lost(given, kept, path):
    if isinstance(given, dict):
        for key, value in given.items():
            place = f"{path}.{key}" if path else key
            if key in (kept or {}):
                yield from lost(value, kept[key], place)
            # Defaults are left out of what comes out.
            elif value not in (None, False, "", [], {}):
                yield place
    elif isinstance(given, list):
        for one, other in zip(given, kept):
            yield from lost(one, other, path)


for file in sys.argv[1:]:
    with open(file) as text:
        given = json.load(text)
    kept = json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder))
    found = set(lost(given, kept, ""))
    for panel in given["panels"]:
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "none")
        if unit not in UNITS:
            found.add(f"unit {unit}")
    for one in sorted(found):
        print(file.rsplit("/", 1)[-1], one)
