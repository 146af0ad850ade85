"""Attacks and faults, with measurements of their cost to the server.

The server runs in its own process with the default `Settings`. Meanwhile a canary, a well-behaved
connection, must keep being answered. `ATTACKS=full` runs the same tests at full scale (`make
soak`), and `FIGURES=path` stores the measurements (`make scorecard`).
"""
