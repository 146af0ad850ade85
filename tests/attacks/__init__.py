"""Attacks and faults, each with its figures: what it costs the server, and nobody else.

The server is a process of its own, with the defaults of `Settings`; a canary, a well-behaved
connection, must go on being answered meanwhile. `ATTACKS=full` runs the same at full scale
(`make soak`), and `FIGURES=path` keeps the figures (`make scorecard`).
"""
