"""Obeys lines "COUNT FILE together|apart" on its input: `broadcast` sends the text in FILE to all,
COUNT times, one after the other or each when the one before has left, for which `finish` waits;
says how many seconds and how much CPU time that took."""

import json
import sys
import time
from pathlib import Path


def obey(line, members, broadcast, finish=lambda: None):
    count, name, how = line.split()
    message = Path(name).read_text()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(count)):
        broadcast(message)
        if how == "apart":
            finish()
    finish()
    spent = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({"members": len(members), **spent}), flush=True)


def lines():
    return iter(sys.stdin.readline, "")
