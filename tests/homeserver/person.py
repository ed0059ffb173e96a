#!/usr/bin/env python3
"""One person of the homeserver, for tests: python3 person.py URL SECRET COMMAND [ARGUMENT…]; answers in JSON.

    sign-up NAME             makes the account with a device and one-time keys, and a room: {"token", "room"}
    send TOKEN ROOM TEXT     sends a message
    look TOKEN ROOM          {"messages": […], "one_time_keys": N}
    upload-keys TOKEN N      uploads one-time keys: {"one_time_keys": N}
    share TOKEN TEXT         uploads a file: {"media_id"}
    see TOKEN MEDIA_ID       downloads it: {"content"}

Runs in a Pod of Synapse, from standard input.
"""

import hashlib
import hmac
import json
import secrets
import sys
import time
import urllib.parse
import urllib.request

URL, SECRET, COMMAND, *ARGUMENTS = sys.argv[1:]
PASSWORD = "correct horse battery staple"


def call(method, path, token=None, body=None):
    request = urllib.request.Request(URL + path, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def client(method, path, token, body=None):
    return call(method, f"/_matrix/client/v3/{path}", token, body)


def upload(token, count):
    who = client("GET", "account/whoami", token)
    keys = {
        f"signed_curve25519:{secrets.token_hex(4)}": {
            "key": secrets.token_urlsafe(32),
            "signatures": {who["user_id"]: {f"ed25519:{who['device_id']}": secrets.token_urlsafe(64)}},
        }
        for _ in range(count)
    }
    return client("POST", "keys/upload", token, {"one_time_keys": keys})["one_time_key_counts"].get("signed_curve25519", 0)


def sign_up(name):
    nonce = call("GET", "/_synapse/admin/v1/register")["nonce"]
    mac = hmac.new(SECRET.encode(), "\0".join([nonce, name, PASSWORD, "notadmin"]).encode(), hashlib.sha1).hexdigest()
    made = call("POST", "/_synapse/admin/v1/register", None, {
        "nonce": nonce, "username": name, "password": PASSWORD, "admin": False, "mac": mac, "device_id": "PHONE"})
    token = made["access_token"]
    upload(token, 30)
    return {"token": token, "room": client("POST", "createRoom", token, {"name": f"of {name}"})["room_id"]}


def look(token, room):
    page = client("GET", f"rooms/{urllib.parse.quote(room)}/messages?dir=b&limit=100", token)
    texts = [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
    return {"messages": texts, "one_time_keys": upload(token, 0)}


def share(token, text):
    path = "/_matrix/media/v3/upload?filename=note.txt"
    request = urllib.request.Request(URL + path, method="POST", data=text.encode())
    request.add_header("Content-Type", "text/plain")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {"media_id": json.load(answer)["content_uri"].rsplit("/", 1)[1]}


def see(token, media_id):
    request = urllib.request.Request(f"{URL}/_matrix/client/v1/media/download/example.org/{media_id}")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {"content": answer.read().decode()}


answers = {
    "sign-up": sign_up,
    "send": lambda token, room, text: client(
        "PUT", f"rooms/{urllib.parse.quote(room)}/send/m.room.message/{time.time_ns()}", token,
        {"msgtype": "m.text", "body": text}),
    "look": look,
    "share": share,
    "see": see,
    "upload-keys": lambda token, count: {"one_time_keys": upload(token, int(count))},
}
print(json.dumps(answers[COMMAND](*ARGUMENTS)))
