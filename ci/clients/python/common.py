"""What the programs of this folder have in common: the environment, tokens, checks."""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import threading
import time
import traceback
from contextlib import contextmanager

ALL_ROLES = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]

WATCHDOG_S = 120
STEP_S = 10

_running = "the start"


def _die(why):
    print(f"FAILED: {why}", file=sys.stderr, flush=True)
    # Threads of clients that still run would keep the program alive.
    os._exit(1)


def _environment(name):
    return os.environ.get(name) or _die(f"{name} is not set; ci/clients/run.sh sets it")


def _watch():
    time.sleep(WATCHDOG_S)
    _die(f'still at "{_running}" after {WATCHDOG_S} s')


threading.Thread(target=_watch, daemon=True).start()


@contextmanager
def check(name):
    """One check. The first that fails ends the program."""
    global _running
    _running = name
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        _die(f"{name}: {error!r}")
    print(f"ok - {name}", flush=True)


def done():
    sys.stdout.flush()
    os._exit(0)


def equal(is_, should):
    if is_ != should:
        raise AssertionError(f"{is_!r} instead of {should!r}")


class Service:
    def __init__(self, connection_string):
        self.endpoint = re.search(r"Endpoint=([^;]*?)/?;", connection_string)[1]
        self.key = re.search(r"AccessKey=([^;]*)", connection_string)[1]


# The emulator that answers each event with what it holds, and the one without a handler for events.
_main = Service(_environment("WPS_CONNECTION_STRING"))
WITHOUT_HANDLER = Service(_environment("WPS_CONNECTION_STRING_NO_HANDLER"))


def access_url(user=None, roles=ALL_ROLES, groups=None, query="", key=None, service=_main):
    """A client access URL, signed as a server SDK does it."""
    path = f"{service.endpoint}/client/hubs/clients"
    claims = {"aud": path, "exp": int(time.time()) + 3600, "role": roles}
    if user is not None:
        claims["sub"] = user
    if groups is not None:
        claims["webpubsub.group"] = groups

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    header = {"alg": "HS256", "typ": "JWT"}
    signed = b".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    signature = hmac.digest((key or service.key).encode(), signed, hashlib.sha256)
    token = (signed + b"." + encode(signature)).decode()
    return f"{path.replace('http', 'ws', 1)}?access_token={token}{query}"


def control(*lines):
    """Gives the (first) emulator commands, such as `cut`."""
    with open(_environment("WPS_CONTROL"), "a", encoding="utf-8") as pipe:
        pipe.write("".join(f"{line}\n" for line in lines))
