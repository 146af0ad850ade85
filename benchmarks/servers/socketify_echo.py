"""socketify, the Python binding of uWebSockets: socketify_echo.py PORT."""

import sys

from socketify import App, OpCode

app = App()
app.ws(
    "/*",
    {
        "max_payload_length": 1 << 24,
        "max_backpressure": 1 << 26,
        "idle_timeout": 120,
        "message": lambda ws, message, opcode: ws.send(
            message, opcode if opcode == OpCode.TEXT else OpCode.BINARY
        ),
    },
)
app.listen(int(sys.argv[1]), lambda _config: None)
app.run()
