"""Installs the client from npm, if it is not there, and runs the chat on http://localhost:8000/:

python run.py [flask|fastapi] [PORT]
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = {
    "flask": "gunicorn -k gthread --threads 8 -b 127.0.0.1:{port} with_flask:app",
    "fastapi": "uvicorn --ws websocket_handler.servers.uvicorn:WebSocketProtocol --port {port} "
    "with_fastapi:app",
}


def main(framework="flask", port="8000"):
    os.chdir(HERE)
    if not Path("node_modules/socket.io-client").is_dir():
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], check=True)
    print(f"http://localhost:{port}/", flush=True)
    command = COMMANDS[framework].format(port=port).split()
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    main(*sys.argv[1:])
