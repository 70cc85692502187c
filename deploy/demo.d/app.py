"""The demo's web app: says which host and which process answers."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/app")
def hello():
    return f"app on {os.environ['HOST_NAME']}, pid {os.getpid()}\n"
