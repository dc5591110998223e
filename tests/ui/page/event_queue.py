"""Sends events through gradio's queue as a page does, and reads what the server answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any

SESSION = "a-page"


def send(server: http.client.HTTPConnection, function: Any, data: Sequence[Any] = ()) -> None:
    """Send one event of a function of the Blocks. ``data``: the values of its inputs."""
    event = {
        "data": list(data),
        "fn_index": function._id,
        "session_hash": SESSION,
        "trigger_id": function.targets[0][0],
    }
    server.request("POST", "/gradio_api/queue/join", json.dumps(event), headers={"Content-Type": "application/json"})
    answer = server.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()


def answers(server: http.client.HTTPConnection) -> list[list[Any]]:
    """Wait until all events that were sent are done. Returns their outputs in the order of arrival."""
    server.request("GET", f"/gradio_api/queue/data?session_hash={SESSION}")
    lines = server.getresponse().read().splitlines()
    ends = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    ends = [message for message in ends if message["msg"] == "process_completed"]
    assert all(end["success"] for end in ends), ends
    return [list(end["output"]["data"]) for end in ends]
