"""flask-sock, with a thread per socket, on gunicorn's gthread worker."""

from flask import Flask
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@sock.route("/")
def echo(ws):
    while True:
        ws.send(ws.receive())
