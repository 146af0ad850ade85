"""Flask: http://localhost:8000/ (and `gunicorn -k gthread --threads 8 with_flask:app`).

pip install websocket-handler flask
"""

from pathlib import Path

from flask import Flask, request, session

from websocket_handler import WebSocket, WSGIMiddleware

app = Flask(__name__)
app.secret_key = "change me"
app.wsgi_app = WSGIMiddleware(app.wsgi_app)


@app.get("/")
def index():
    return Path(__file__).with_name("echo.html").read_text()


@app.post("/login")
def login():
    session["user"] = "Ada"
    return "welcome\n"


@app.get("/echo")
def echo():
    ws = WebSocket.of(request)
    if ws is None:
        return "We only speak WebSockets here\n", 426
    if "user" not in session:
        return "Log in first\n", 401
    ws.on("message", ws.send)
    return ws.connect()


if __name__ == "__main__":
    app.run(port=8000)
