"""The engine over socket pairs: its homes, its ends, its memory and its timers."""
