"""Run a deployed chain over Prefect's HTTP API, with the standard library only.

    PREFECT_API_AUTH_STRING=user:password python call_over_rest.py support ticket="Where is my parcel?"

Prints the outputs as JSON. Copy it: nothing of Headrace or Prefect has to be installed where it runs.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

API = os.environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api")
AUTH = os.environ.get("PREFECT_API_AUTH_STRING", "")


def ask(path, body=None):
    """GET, or POST a body; wait and ask again where the server is busy (429, 503)."""
    headers = {"Content-Type": "application/json"}
    if AUTH:
        headers["Authorization"] = "Basic " + base64.b64encode(AUTH.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    for tried in range(6):
        request = urllib.request.Request(f"{API}/{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or tried == 5:
                raise
            time.sleep(min(float(error.headers.get("Retry-After") or 2**tried), 60))


def run_chain(chain, inputs, timeout=300):
    """Return the outputs of a chain; raise RuntimeError with what went wrong."""
    deployment = ask(f"deployments/name/run-chain/{chain}")
    # The key makes this safe to repeat: a second request with it returns the run that the first one made.
    begun = ask(
        f"deployments/{deployment['id']}/create_flow_run",
        {"parameters": inputs, "idempotency_key": os.urandom(16).hex()},
    )
    ends, pause = time.monotonic() + timeout, 0.1
    while (state := ask(f"flow_runs/{begun['id']}")["state"])["type"] not in (
        "COMPLETED",
        "FAILED",
        "CRASHED",
        "CANCELLED",
    ):
        if time.monotonic() > ends:
            raise RuntimeError(f"flow run {begun['id']} has not ended after {timeout} s; it goes on")
        time.sleep(pause)
        pause = min(pause * 1.5, 2)
    chosen = {"flow_run_id": {"any_": [begun["id"]]}, "key": {"any_": [f"{chain}-result".replace("_", "-")]}}
    found = ask("artifacts/filter", {"artifacts": chosen})
    if not found:
        raise RuntimeError(f"{state['type']}: {state['message']}")
    result = found[0]["data"]
    if result["status"] != "ok":
        raise RuntimeError(f"run {result['run_id']} is {result['status']}: {result['error']}")
    return result["outputs"]


if __name__ == "__main__":
    try:
        outputs = run_chain(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:]))
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {error.read().decode()}")
    except RuntimeError as error:
        sys.exit(str(error))
    print(json.dumps(outputs))
