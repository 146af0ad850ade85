"""Django: http://localhost:8000/ (and `gunicorn -k gthread --threads 8 with_django:app`).

pip install websocket-handler django
"""

from pathlib import Path

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from websocket_handler import WebSocket, WSGIMiddleware

if not settings.configured:
    settings.configure(
        DEBUG=True,
        SECRET_KEY="change me",
        ROOT_URLCONF=__name__,
        WSGI_APPLICATION=f"{__name__}.app",
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )


def index(request):
    return HttpResponse(Path(__file__).with_name("echo.html").read_text())


@csrf_exempt
def login(request):
    request.session["user"] = "Ada"
    return HttpResponse("welcome\n")


def echo(request):
    ws = WebSocket.of(request)
    if ws is None:
        return HttpResponse("We only speak WebSockets here\n", status=426)
    if "user" not in request.session:
        return HttpResponse("Log in first\n", status=401)
    ws.on("message", ws.send)
    return HttpResponse(ws.connect())


urlpatterns = [path("", index), path("login", login), path("echo", echo)]
app = WSGIMiddleware(get_wsgi_application())

if __name__ == "__main__":
    execute_from_command_line(["manage.py", "runserver", "--noreload", "localhost:8000"])
