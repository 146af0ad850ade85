"""The engine over socket pairs: where it runs, how connections end, memory and timers."""
