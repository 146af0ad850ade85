"""Tornado, on the port that is its argument."""

from __future__ import annotations

import asyncio
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from .routes import REQUEST_ID, respond_in_loop, wait_for_client_in_loop


class Handler(RequestHandler):
    async def get(self) -> None:
        path = self.request.path
        status, body = await respond_in_loop(self, path)
        if status == 401:
            raise HTTPError(401)
        self.set_status(status)
        self.set_header("X-Request-Id", REQUEST_ID)
        if path == "/logs-in":
            self.set_signed_cookie("session", "alice")
        self.finish(body)
        if path == "/works-on":
            await wait_for_client_in_loop()


async def serve(port: int) -> None:
    app = Application([(r"/.*", Handler)], cookie_secret="for the tests")
    HTTPServer(app, xheaders=True).listen(port, "127.0.0.1")
    print(f"Running on http://127.0.0.1:{port}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
