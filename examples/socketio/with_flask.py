"""A chat with Flask-SocketIO: http://localhost:8000/. `python run.py` starts it.

pip install websocket-handler[socketio] flask flask-socketio gunicorn; npm install
"""

from pathlib import Path

from flask import Flask, request, send_from_directory
from flask_socketio import SocketIO, emit, join_room

from websocket_handler import WSGIMiddleware
from websocket_handler.socketio import serve

HERE = Path(__file__).parent

app = Flask(__name__)
socketio = SocketIO(app, async_mode="threading")
serve(socketio)
app.wsgi_app = WSGIMiddleware(app.wsgi_app)
names = {}


@app.get("/")
def index():
    return (HERE / "chat.html").read_text()


@app.get("/client/<path:name>")
def client(name):
    return send_from_directory(HERE / "node_modules/socket.io-client/dist", name)


@socketio.on("join")
def join(name):
    names[request.sid] = str(name)[:40] or "nobody"
    join_room("chat")
    emit("members", sorted(names.values()), to="chat")


@socketio.on("say")
def say(text):
    if request.sid in names:
        emit("said", [names[request.sid], str(text)[:1000]], to="chat")
    return "delivered"


@socketio.on("disconnect")
def leave():
    if names.pop(request.sid, None):
        emit("members", sorted(names.values()), to="chat")
