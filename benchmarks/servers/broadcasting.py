"""The command loop of the broadcast servers.

For each line "COUNT FILE together|apart" on standard input, `broadcast` sends the text in FILE to
all members, COUNT times: in immediate succession, or each after the last one was sent, for which
`finish` waits. Prints the elapsed time and the CPU time.
"""

import json
import sys
import time
from pathlib import Path


def execute(line, members, broadcast, finish=lambda: None):
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
