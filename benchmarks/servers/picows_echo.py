"""picows: picows_echo.py PORT asyncio|uvloop."""

import asyncio
import sys

import picows
from secure import context


class Echo(picows.WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def main():
    server = await picows.ws_create_server(
        lambda _request: Echo(),
        "127.0.0.1",
        int(sys.argv[1]),
        max_frame_size=1 << 24,
        backlog=4096,
        ssl=context(),
    )
    await server.serve_forever()


if sys.argv[2] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
