"""A guestbook: a small real service with dependencies that come from a package registry."""

import os

from flask import Flask, jsonify
from markupsafe import escape

app = Flask(__name__)
GREETING = "Hello"


@app.get("/")
def index():
    return jsonify(greeting=f"{GREETING} from a sandboxed build", motto=motto(), user=os.getuid())


@app.get("/hello/<name>")
def hello(name):
    return f"{GREETING}, {escape(name)}!"


def motto():
    path = os.path.join(os.path.dirname(__file__), "motto.txt")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
