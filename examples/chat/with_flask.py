"""Flask: http://localhost:8000/ (and `gunicorn -w 4 -k gthread --threads 8 with_flask:app`).

pip install websocket-handler flask
"""

from pathlib import Path

import chat
from flask import Flask, request, session

from websocket_handler import WebSocket, WSGIMiddleware

app = Flask(__name__)
app.secret_key = "change me"
app.wsgi_app = WSGIMiddleware(app.wsgi_app)


@app.get("/")
def index():
    return Path(__file__).with_name("chat.html").read_text()


@app.post("/login")
def login():
    session["name"] = chat.tidy(request.form.get("name"))
    return "welcome\n" if session["name"] else ("A name must have 1 to 40 characters\n", 400)


@app.get("/chat")
def join():
    ws = WebSocket.of(request)
    if ws is None:
        return "We only speak WebSockets here\n", 426
    return chat.join(ws, session.get("name"))


if __name__ == "__main__":
    app.run(port=8000)
