"""Flask with this library, on gunicorn's gthread worker."""

from flask import Flask, request

from websocket_handler import WSGIMiddleware

app = Flask(__name__)
app.wsgi_app = WSGIMiddleware(app.wsgi_app, max_message_size=1 << 24)


@app.get("/")
def echo():
    ws = request.environ["wsgi.websocket"]
    if ws is None:
        return "We only speak WebSockets here", 426
    ws.on("message", ws.send)
    return ws.connect()
