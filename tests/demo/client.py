"""A client that does nothing but ask whether the homeserver is there, ten times a second.

It prints when an outage begins and ends. On SIGTERM it prints, as its last line, the longest that it has seen: the end of one
that has just begun, such as a slow answer, it waits for.
"""

import signal
import time
import urllib.error
import urllib.request

URL = "http://synapse:8008/_matrix/client/versions"
WAITS_AT_MOST = 30
stopped_at = None


def stop(*_):
    global stopped_at
    stopped_at = time.monotonic()


def goes_on(is_down):
    if stopped_at is None:
        return True
    return is_down and time.monotonic() < stopped_at + WAITS_AT_MOST


def serves():
    try:
        with urllib.request.urlopen(URL, timeout=1) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def main():
    signal.signal(signal.SIGTERM, stop)
    down_since, longest, asked = None, 0.0, 0
    while goes_on(down_since is not None):
        now = time.monotonic()
        asked += 1
        if serves():
            if down_since is not None:
                outage = time.monotonic() - down_since
                longest = max(longest, outage)
                print(f"{time.strftime('%H:%M:%S')} back after {outage:.1f} s", flush=True)
                down_since = None
        elif down_since is None:
            down_since = now
            print(f"{time.strftime('%H:%M:%S')} gone", flush=True)
        time.sleep(max(0.0, now + 0.1 - time.monotonic()))
    still = "" if down_since is None else ", and it is still gone"
    print(f"{longest:.1f} s ({asked} requests){still}", flush=True)


main()
