"""Starts a unit and looks at it and then at its node's /readyz, again and again; prints each look as
JSON.

    python3 look.py UNIT URL SECONDS

Ends when the unit was active and its node ready five times in a row, or after SECONDS.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request


def state(unit):
    """What the service manager says of the unit."""
    show = ["systemctl", "show", "-p", "ActiveState", "-p", "StatusText", unit]
    said = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def readiness(url):
    """The status of /readyz; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=0.5) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def main(unit, url, seconds):
    subprocess.run(["systemctl", "start", "--no-block", unit], check=True)
    until, well = time.monotonic() + float(seconds), 0
    while well < 5 and time.monotonic() < until:
        # In this order: a node that is ready by then was not yet when the unit was called active.
        said = state(unit)
        ready = readiness(url)
        look = {"state": said["ActiveState"], "text": said["StatusText"], "ready": ready}
        print(json.dumps(look), flush=True)
        well = well + 1 if (look["state"], ready) == ("active", 200) else 0


main(*sys.argv[1:])
