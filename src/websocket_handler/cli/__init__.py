"""The command line. `demo` needs the standard library only, the other commands the extra `cli`."""
