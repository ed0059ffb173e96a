#!/usr/bin/env python3
"""Fills a Synapse with the life of a small server, through its own HTTP API.

Everything that maintenance has to be careful with is there: rooms that nobody is in, rooms that only
look so (a pending invite, a pending knock), rooms left and forgotten, redactions that are not yet
censored, media in use and media that no event mentions, one-time keys, old and new room versions.

Python's standard library is all it needs, so it runs inside the Synapse image or anywhere else:

    SYNAPSE_URL=http://127.0.0.1:8008 REGISTRATION_SHARED_SECRET=… python3 seed.py

Run again, it takes up where it stopped: what is finished is noted in the admin's account data.
The same parameters give the same server, but for the ids and times that Synapse chooses.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import os
import random
import struct
import sys
import time
import urllib.parse
import zlib

MARKER = "dev.synapse-keeper.seed"
PASSWORD = os.environ.get("SEED_PASSWORD", "correct horse battery staple")
NAMES = (
    "ada bruno chiara dmitri elif farid greta hiroshi ines jakub kavya luis mara nils "
    "oksana pedro quinn rosa samir tuva ugo vera wanja xenia yusuf zoe"
).split()
TOPICS = (
    "lobby kitchen garden workshop library music cinema running support releases "
    "incidents photos travel chess science books cooking cycling weather maps"
).split()
WORDS = (
    "the a and is to of in it that we for on was with not but have this from they you "
    "server room message tomorrow today meeting coffee deploy backup disk key bridge "
    "photo train garden window paper yesterday question answer idea plan friend team "
    "release branch error fix test slow fast again maybe never always please thanks"
).split()


class ApiError(Exception):
    def __init__(self, method, path, status, body):
        super().__init__(f"{method} {path}: {status} {body}")
        self.status = status
        self.code = body.get("errcode") if isinstance(body, dict) else None


class Api:
    """One kept-open connection; a request is tried again while the server restarts."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        secure = parts.scheme == "https"
        self.make = lambda: (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            parts.hostname, parts.port, timeout=90
        )
        self.connection = self.make()
        self.requests = 0

    def call(self, method, path, token=None, body=None, content_type="application/json"):
        headers = {}
        if token:
            headers["Authorization"] = "Bearer " + token
        if body is not None:
            headers["Content-Type"] = content_type
            if content_type == "application/json":
                body = json.dumps(body).encode()
        elif method in ("POST", "PUT"):
            headers["Content-Type"] = "application/json"
            body = b"{}"
        for attempt in range(8):
            try:
                self.connection.request(method, path, body, headers)
                response = self.connection.getresponse()
                data = response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = self.make()
                if attempt == 7:
                    raise
                time.sleep(min(0.2 * 2**attempt, 5))
                continue
            self.requests += 1
            try:
                answer = json.loads(data)
            except ValueError:
                answer = data
            if status == 429:
                time.sleep(answer.get("retry_after_ms", 1000) / 1000)
                continue
            if status >= 500 and attempt < 7:
                time.sleep(0.5 * (attempt + 1))
                continue
            if status >= 400:
                raise ApiError(method, path, status, answer)
            return answer
        raise ApiError(method, path, status, answer)


def quote(text):
    return urllib.parse.quote(text, safe="")


def unpadded(data):
    return base64.b64encode(data).decode().rstrip("=")


class Progress:
    """`[ 120/ 400] messages`, at most a line a second, or one that rewrites itself on a terminal."""

    def __init__(self, what, total):
        self.what, self.total, self.done = what, total, 0
        self.width = len(str(total))
        self.started = self.shown = time.monotonic()

    def step(self, detail=""):
        self.done += 1
        now = time.monotonic()
        last = self.done == self.total
        if last or now - self.shown >= 1:
            self.shown = now
            self.show(detail if not last else "", last)

    def show(self, detail, last):
        line = f"[{self.done:>{self.width}}/{self.total:>{self.width}}] {self.what} {detail}".rstrip()
        if last:
            line += f" in {time.monotonic() - self.started:.1f} s"
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + line + ("\n" if last else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def png(rng, width, height):
    """A small real picture: diagonal bands in two random colours."""
    one, two = (bytes(rng.randrange(256) for _ in range(3)) for _ in range(2))
    band = rng.randrange(5, 25)
    rows = b"".join(
        b"\0" + b"".join(one if (x + y) // band % 2 else two for x in range(width)) for y in range(height)
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class Seeder:
    def __init__(self, api, options):
        self.api = api
        self.options = options
        self.rng = random.Random(options.seed)
        self.tokens = {}
        self.transaction = 0
        self.admin = None
        self.server = None
        self.state = {"done": [], "rooms": [], "users": [], "counts": {}, "sent": {}, "messages": 0}

    # --- plumbing

    def client(self, method, path, user, body=None, version="v3", **more):
        return self.api.call(method, f"/_matrix/client/{version}/{path}", self.tokens[user], body, **more)

    def wait_for_server(self):
        deadline = time.monotonic() + self.options.wait
        while True:
            try:
                self.api.call("GET", "/_matrix/client/versions")
                return
            except (OSError, http.client.HTTPException, ApiError) as error:
                if time.monotonic() > deadline:
                    sys.exit(f"{self.options.url} did not answer within {self.options.wait} s: {error}")
                time.sleep(1)

    def count(self, what, by=1):
        self.state["counts"][what] = self.state["counts"].get(what, 0) + by

    def save(self):
        self.client("PUT", f"user/{quote(self.admin)}/account_data/{MARKER}", self.admin, self.state)

    def load(self):
        try:
            self.state |= self.client("GET", f"user/{quote(self.admin)}/account_data/{MARKER}", self.admin)
        except ApiError as error:
            if error.status != 404:
                raise

    def login(self, name, device):
        answer = self.api.call("POST", "/_matrix/client/v3/login", None, {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": PASSWORD,
            "device_id": device,
            "initial_device_display_name": f"{device.lower()} of {name}",
        })
        return answer

    def account(self, name, admin=False):
        """The user's id, with a session opened: made by the shared secret, or logged in if it exists."""
        nonce = self.api.call("GET", "/_synapse/admin/v1/register")["nonce"]
        parts = [nonce, name, PASSWORD, "admin" if admin else "notadmin"]
        mac = hmac.new(self.options.secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        try:
            answer = self.api.call("POST", "/_synapse/admin/v1/register", None, {
                "nonce": nonce, "username": name, "password": PASSWORD, "admin": admin, "mac": mac,
                "displayname": name.capitalize(), "device_id": "PHONE",
            })
        except ApiError as error:
            if error.code != "M_USER_IN_USE":
                raise
            try:
                answer = self.login(name, "PHONE")
            except ApiError as refused:
                if refused.code != "M_USER_DEACTIVATED":
                    raise
                return None
        self.tokens[answer["user_id"]] = answer["access_token"]
        return answer["user_id"]

    # --- what is made, in this order

    def run(self):
        self.wait_for_server()
        self.admin = self.account("admin", admin=True)
        self.server = self.admin.split(":", 1)[1]
        self.load()
        phases = (self.users, self.rooms, self.messages, self.receipts, self.media, self.keys, self.habits,
                  self.empty_rooms, self.departures)
        missing = [phase for phase in phases if phase.__name__ not in self.state["done"]]
        if missing and "users" in self.state["done"]:
            for user in self.state["users"]:
                self.account(user[1:].split(":")[0])
        for phase in missing:
            # Its own generator: a phase that is run again, or alone, does the same.
            self.rng = random.Random(f"{self.options.seed}/{phase.__name__}")
            phase()
            self.state["done"].append(phase.__name__)
            self.save()
        if not missing:
            print("already seeded: nothing to do", file=sys.stderr)
        self.settle()
        self.summary()

    def users(self):
        wanted = self.options.users
        progress = Progress("users", wanted)
        users = []
        for number in range(wanted):
            name = NAMES[number] if number < len(NAMES) else f"user{number:04}"
            users.append(self.account(name))
            if number % 3 == 0:
                self.login(name, "LAPTOP")
            progress.step()
        self.state["users"] = users
        self.count("users", wanted)

    def room(self, owner, alias, **more):
        """A room by its alias: made, or found when an earlier run made it."""
        full = f"#{alias}:{self.server}"
        try:
            return self.client("GET", f"directory/room/{quote(full)}", owner)["room_id"]
        except ApiError as error:
            if error.status != 404:
                raise
        self.count("rooms")
        return self.client("POST", "createRoom", owner, {"room_alias_name": alias, **more})["room_id"]

    def join(self, room, owner, users, invite):
        for user in users:
            try:
                if invite:
                    self.client("POST", f"rooms/{quote(room)}/invite", owner, {"user_id": user})
                self.client("POST", f"rooms/{quote(room)}/join", user)
            except ApiError as error:  # an earlier run came this far
                if error.code != "M_FORBIDDEN":
                    raise

    def rooms(self):
        users, wanted = self.state["users"], self.options.rooms
        progress = Progress("rooms", wanted + 1)
        rooms = []
        for number in range(wanted):
            owner = users[number % len(users)]
            topic = TOPICS[number % len(TOPICS)]
            name = topic if number < len(TOPICS) else f"{topic} {number // len(TOPICS) + 1}"
            kind = ("public", "private", "encrypted")[(0, 0, 1, 0, 2, 1)[number % 6]]
            settings = {
                "name": name.capitalize(),
                "topic": f"All about {name}",
                "preset": "public_chat" if kind == "public" else "private_chat",
                "visibility": "public" if kind == "public" else "private",
            }
            if number % 7 == 3:
                settings["room_version"] = "10"
            elif number % 7 == 5:
                settings["room_version"] = "12"
            if kind == "encrypted":
                settings["initial_state"] = [
                    {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
                ]
            room = self.room(owner, name.replace(" ", "-"), **settings)
            size = max(2, min(len(users), int(self.rng.lognormvariate(1.6, 0.7)) + 1))
            others = [user for user in self.rng.sample(users, size) if user != owner]
            self.join(room, owner, others, invite=kind != "public")
            rooms.append({"id": room, "kind": kind, "name": name, "members": [owner] + others})
            progress.step(name)
        space = self.room(users[0], "village", name="Village", topic="Where everything hangs together",
                          preset="public_chat", visibility="public", creation_content={"type": "m.space"})
        for room in rooms[::2]:
            self.client("PUT", f"rooms/{quote(space)}/state/m.space.child/{quote(room['id'])}", users[0],
                        {"via": [self.server]})
        progress.step()
        self.state["rooms"] = rooms

    def send(self, room, user, kind, content):
        self.transaction += 1
        key = f"seed-{self.options.seed}-{os.getpid()}-{time.time_ns()}-{self.transaction}"
        path = f"rooms/{quote(room)}/send/{kind}/{key}"
        return self.client("PUT", path, user, content)["event_id"]

    def sentence(self):
        return " ".join(self.rng.choice(WORDS) for _ in range(min(60, int(self.rng.lognormvariate(2.2, 0.7)) + 1)))

    def messages(self):
        wanted = self.options.messages
        weights = [1 / (rank + 1) for rank in range(len(self.state["rooms"]))]
        sent = self.state["sent"]  # by room, the first and the last few messages that others can refer to
        progress = Progress("messages", wanted)
        progress.done = self.state["messages"]
        for number in range(self.state["messages"], wanted):
            self.rng = random.Random(f"{self.options.seed}/message/{number}")
            room = self.rng.choices(self.state["rooms"], weights)[0]
            before = sent.setdefault(room["id"], [])
            event = self.message(room, self.rng.choice(room["members"]), before)
            if event:
                before.append(event)
                del before[1:-8]
            self.state["messages"] = number + 1
            if number % 100 == 99:
                self.save()
            progress.step(room["name"])

    def message(self, room, user, before):
        """One message with what follows it; its id, where others may refer to it."""
        if room["kind"] == "encrypted":
            self.count("encrypted messages")
            return self.send(room["id"], user, "m.room.encrypted", {
                "algorithm": "m.megolm.v1.aes-sha2",
                "ciphertext": unpadded(self.rng.randbytes(self.rng.randrange(150, 420))),
                "session_id": unpadded(self.rng.randbytes(32)),
                "sender_key": unpadded(self.rng.randbytes(32)),
                "device_id": "PHONE",
            })
        text = self.sentence()
        content = {"msgtype": "m.text", "body": text}
        chance = self.rng.random()
        threaded = before and 0.12 <= chance < 0.18
        if threaded:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": before[0], "is_falling_back": True,
                                       "m.in_reply_to": {"event_id": before[0]}}
            self.count("thread messages")
        elif before and chance < 0.12:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": self.rng.choice(before)}}
            self.count("replies")
        elif chance < 0.22:
            content["m.mentions"] = {"user_ids": [self.rng.choice(room["members"])]}
        event = self.send(room["id"], user, "m.room.message", content)
        self.count("messages")
        chance = self.rng.random()
        if chance < 0.08 and not threaded:
            self.send(room["id"], user, "m.room.message", {
                "msgtype": "m.text", "body": "* " + text + " indeed",
                "m.new_content": {"msgtype": "m.text", "body": text + " indeed"},
                "m.relates_to": {"rel_type": "m.replace", "event_id": event},
            })
            self.count("edits")
        elif chance < 0.14:
            self.transaction += 1
            path = f"rooms/{quote(room['id'])}/redact/{quote(event)}/seed-{time.time_ns()}-{self.transaction}"
            self.client("PUT", path, user, {"reason": "spoken too soon"})
            self.count("redactions")
            return None
        elif chance > 0.7:
            for friend in self.rng.sample(room["members"], min(2, len(room["members"]))):
                self.send(room["id"], friend, "m.reaction", {"m.relates_to": {
                    "rel_type": "m.annotation", "event_id": event, "key": self.rng.choice("👍🎉❤😂👀")}})
                self.count("reactions")
        # A receipt for a message of a thread would have to name the thread.
        return None if threaded else event

    def receipts(self):
        sent = self.state["sent"]
        readers = [(room, user) for room in self.state["rooms"] if sent.get(room["id"]) for user in room["members"]]
        progress = Progress("read receipts", len(readers))
        for room, user in readers:
            event = self.rng.choice(sent[room["id"]][-5:])
            kind = "m.read.private" if self.rng.random() < 0.2 else "m.read"
            body = {"thread_id": "main"} if self.rng.random() < 0.3 else {}
            self.client("POST", f"rooms/{quote(room['id'])}/receipt/{kind}/{quote(event)}", user, body)
            self.client("POST", f"rooms/{quote(room['id'])}/read_markers", user, {"m.fully_read": event})
            self.count("receipts")
            progress.step()

    def upload(self, user, name, data, kind):
        answer = self.api.call("POST", f"/_matrix/media/v3/upload?filename={quote(name)}", self.tokens[user], data, kind)
        self.count("media")
        self.count("media bytes", len(data))
        return answer["content_uri"]

    def media(self):
        users = self.state["users"]
        rooms = [room for room in self.state["rooms"] if room["kind"] != "encrypted"]
        wanted = max(6, self.options.messages // 20)
        progress = Progress("media", wanted + 4)
        for number in range(wanted):
            room = self.rng.choice(rooms)
            user = self.rng.choice(room["members"])
            if number % 5 == 4:
                data = self.rng.randbytes(self.rng.randrange(2_000, 200_000))
                uri = self.upload(user, f"archive-{number}.bin", data, "application/octet-stream")
                content = {"msgtype": "m.file", "body": f"archive-{number}.bin", "url": uri,
                           "info": {"size": len(data), "mimetype": "application/octet-stream"}}
            else:
                width, height = self.rng.choice(((96, 64), (320, 240), (640, 400)))
                data = png(self.rng, width, height)
                uri = self.upload(user, f"picture-{number}.png", data, "image/png")
                content = {"msgtype": "m.image", "body": f"picture-{number}.png", "url": uri,
                           "info": {"size": len(data), "mimetype": "image/png", "w": width, "h": height}}
            self.send(room["id"], user, "m.room.message", content)
            progress.step()
        for user in users[:3]:
            avatar = self.upload(user, "avatar.png", png(self.rng, 64, 64), "image/png")
            self.client("PUT", f"profile/{quote(user)}/avatar_url", user, {"avatar_url": avatar})
            progress.step("avatars")
        self.upload(users[-1], "never-sent.bin", self.rng.randbytes(50_000), "application/octet-stream")
        progress.step()

    def keys(self):
        """Device keys, one-time and fallback keys, a key backup: well-formed, cryptographically meaningless."""
        users = self.state["users"]
        progress = Progress("devices with keys", len(users))

        def signed(user, **more):
            return {"key": unpadded(self.rng.randbytes(32)), **more,
                    "signatures": {user: {"ed25519:PHONE": unpadded(self.rng.randbytes(64))}}}

        for user in users:
            self.client("POST", "keys/upload", user, {
                "device_keys": {
                    "user_id": user, "device_id": "PHONE",
                    "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                    "keys": {"curve25519:PHONE": unpadded(self.rng.randbytes(32)),
                             "ed25519:PHONE": unpadded(self.rng.randbytes(32))},
                    "signatures": {user: {"ed25519:PHONE": unpadded(self.rng.randbytes(64))}},
                },
                "one_time_keys": {f"signed_curve25519:{unpadded(self.rng.randbytes(4))}": signed(user)
                                  for _ in range(20)},
                "fallback_keys": {f"signed_curve25519:{unpadded(self.rng.randbytes(4))}": signed(user, fallback=True)},
            })
            self.count("one-time keys", 20)
            progress.step()
        for one, other in zip(users, users[1:]):
            self.client("POST", "keys/claim", one, {"one_time_keys": {other: {"PHONE": "signed_curve25519"}}})
            self.client("PUT", f"sendToDevice/m.room.encrypted/seed-{time.time_ns()}", one, {"messages": {other: {
                "PHONE": {"algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": unpadded(self.rng.randbytes(96))}}}})
            self.count("one-time keys", -1)
            self.count("to-device messages")
        owner = users[0]
        version = self.client("POST", "room_keys/version", owner, {
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": {"public_key": unpadded(self.rng.randbytes(32)), "signatures": {}},
        })["version"]
        for room in self.state["rooms"]:
            if room["kind"] == "encrypted" and owner in room["members"]:
                session = unpadded(self.rng.randbytes(32)).replace("/", "_")
                self.client("PUT", f"room_keys/keys/{quote(room['id'])}/{quote(session)}?version={version}", owner, {
                    "first_message_index": 0, "forwarded_count": 0, "is_verified": True,
                    "session_data": {"ciphertext": unpadded(self.rng.randbytes(200)),
                                     "ephemeral": unpadded(self.rng.randbytes(32)),
                                     "mac": unpadded(self.rng.randbytes(8))}})
                self.count("key backups")

    def habits(self):
        """What clients leave behind: syncs of both kinds, filters, tags, push rules, account data, a report."""
        users, rooms = self.state["users"], self.state["rooms"]
        progress = Progress("clients' habits", len(users))
        for number, user in enumerate(users):
            mine = [room for room in rooms if user in room["members"]]
            if mine:
                room = quote(mine[0]["id"])
                me = quote(user)
                self.client("PUT", f"user/{me}/rooms/{room}/tags/m.favourite", user, {"order": 0.5})
                self.client("PUT", f"user/{me}/rooms/{room}/account_data/org.example.draft", user, {"body": "well"})
                self.client("PUT", f"pushrules/global/room/{room}", user, {"actions": ["notify"]})
            self.client("PUT", f"user/{quote(user)}/account_data/m.direct", user,
                        {users[number - 1]: [rooms[number % len(rooms)]["id"]]})
            self.client("POST", f"user/{quote(user)}/filter", user, {"room": {"timeline": {"limit": 10}}})
            self.client("GET", "sync?timeout=0", user)
            self.api.call("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", self.tokens[user], {
                "conn_id": "main", "lists": {"all": {"ranges": [[0, 20]], "timeline_limit": 3,
                                                     "required_state": [["m.room.name", ""], ["m.room.member", "$LAZY"]]}}})
            progress.step()
        room = rooms[0]
        chunk = self.client("GET", f"rooms/{quote(room['id'])}/messages?dir=b&limit=20", room["members"][0])["chunk"]
        for event in chunk:
            if event["type"] == "m.room.message" and event.get("content"):
                self.client("POST", f"rooms/{quote(room['id'])}/report/{quote(event['event_id'])}", room["members"][1],
                            {"reason": "spam", "score": -50})
                self.count("reports")
                break

    def leave(self, room, users, forgetting=()):
        for user in users:
            self.client("POST", f"rooms/{quote(room)}/leave", user)
            if user in forgetting:
                self.client("POST", f"rooms/{quote(room)}/forget", user)

    def empty_rooms(self):
        """Rooms without a joined member: some are unused, some only look so."""
        users = self.state["users"]
        a, b, c = users[0], users[1], users[2]
        progress = Progress("rooms that were left", 8)

        def lively(alias, **more):
            settings = {"name": alias.capitalize(), "preset": "public_chat", **more}
            room = self.room(a, alias, **settings)
            self.join(room, a, [b], invite=True)
            for _ in range(4):
                self.send(room, self.rng.choice((a, b)), "m.room.message", {"msgtype": "m.text", "body": self.sentence()})
            return room

        # The alias outlives the last member; where an earlier run has emptied the room already, it is let be.
        def empty(alias, forgetting, before=None, **more):
            try:
                known = self.client("GET", f"directory/room/{quote(f'#{alias}:{self.server}')}", a)["room_id"]
                joined = self.api.call("GET", f"/_synapse/admin/v1/rooms/{quote(known)}", self.tokens[self.admin])
                if joined["joined_members"] == 0:
                    return
            except ApiError as error:
                if error.status != 404:
                    raise
            room = lively(alias, **more)
            if before:
                before(room)
            self.leave(room, (a, b), forgetting)
            if not before:
                self.count("rooms left and forgotten" if len(forgetting) == 2 else "rooms left")

        empty("old-party", forgetting=(a, b))
        progress.step()
        empty("old-project", forgetting=(a, b), room_version="10")
        progress.step()
        if "forgotten without alias" not in self.state["counts"]:
            room = self.client("POST", "createRoom", a, {"name": "Nameless", "preset": "private_chat"})["room_id"]
            self.send(room, a, "m.room.message", {"msgtype": "m.text", "body": self.sentence()})
            self.leave(room, (a,), forgetting=(a,))
            self.count("rooms")
            self.count("rooms left and forgotten")
            self.count("forgotten without alias")
            self.save()
        progress.step()
        empty("quiet-corner", forgetting=())
        progress.step()
        empty("half-forgotten", forgetting=(b,))
        progress.step()
        # Nobody is joined, yet both are in use: c may still accept, or be let in.
        empty("invitation", forgetting=(a, b), before=lambda room: self.client(
            "POST", f"rooms/{quote(room)}/invite", a, {"user_id": c}))
        self.count("rooms with nothing but an invite")
        progress.step()
        empty("knocking", forgetting=(a, b), preset="private_chat", initial_state=[
            {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}],
            before=lambda room: self.client("POST", f"knock/{quote(room)}", c, {"reason": "let me in"}))
        self.count("rooms with nothing but a knock")
        progress.step()
        room = self.room(a, "old-version", name="Old version", preset="public_chat", room_version="10")
        versions = self.client("GET", f"rooms/{quote(room)}/state/m.room.create", a)
        if versions["room_version"] == "10":
            self.client("POST", f"rooms/{quote(room)}/upgrade", a, {"new_version": "12"})
            self.count("rooms")
            self.count("room upgrades")
        progress.step()

    def departures(self):
        users, rooms = self.state["users"], self.state["rooms"]
        public = [room for room in rooms if room["kind"] == "public" and len(room["members"]) > 2]
        private = [room for room in rooms if room["kind"] == "private"]
        progress = Progress("departures", len(public[:4]) + 3)
        for number, room in enumerate(public[:4]):
            leaver = room["members"].pop()
            self.leave(room["id"], (leaver,), forgetting=(leaver,) if number % 2 == 0 else ())
            self.count("departures")
            progress.step()
        outsiders = [user for user in users if user not in private[0]["members"]]
        if outsiders:
            self.client("POST", f"rooms/{quote(private[0]['id'])}/invite", private[0]["members"][0],
                        {"user_id": outsiders[0]})
            self.count("pending invites")
        progress.step()
        banned = public[-1]["members"].pop()
        self.client("POST", f"rooms/{quote(public[-1]['id'])}/ban", public[-1]["members"][0],
                    {"user_id": banned, "reason": "enough"})
        self.count("bans")
        progress.step()
        gone = users[-1]
        self.api.call("POST", f"/_synapse/admin/v1/deactivate/{quote(gone)}", self.tokens[self.admin], {"erase": False})
        self.count("deactivated users")
        progress.step()

    def settle(self):
        """Synapse works on after the last request: background updates, statistics, the user directory."""
        deadline = time.monotonic() + self.options.wait
        admin = self.tokens[self.admin]
        while time.monotonic() < deadline:
            status = self.api.call("GET", "/_synapse/admin/v1/background_updates/status", admin)
            left = status.get("current_updates") or {}
            if not left:
                return
            print(f"waiting for background updates: {', '.join(u['name'] for u in left.values())}", file=sys.stderr)
            time.sleep(2)
        sys.exit("background updates are still running")

    def summary(self):
        admin = self.tokens[self.admin]
        rooms = self.api.call("GET", "/_synapse/admin/v1/rooms?limit=1", admin)["total_rooms"]
        users = self.api.call("GET", "/_synapse/admin/v2/users?limit=1&deactivated=true", admin)["total"]
        print(json.dumps({
            "server": self.server, "users": users, "rooms": rooms, "made": self.state["counts"],
            "requests": self.api.requests,
        }, indent=2, ensure_ascii=False))


def main():
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=env("SYNAPSE_URL", "http://127.0.0.1:8008"), help="client API (SYNAPSE_URL)")
    parser.add_argument("--secret", default=env("REGISTRATION_SHARED_SECRET"),
                        help="registration_shared_secret; better given as REGISTRATION_SHARED_SECRET")
    parser.add_argument("--users", type=int, default=int(env("USERS", "12")), help="beside the admin (USERS, 12)")
    parser.add_argument("--rooms", type=int, default=int(env("ROOMS", "18")), help="lively rooms (ROOMS, 18)")
    parser.add_argument("--messages", type=int, default=int(env("MESSAGES", "400")), help="(MESSAGES, 400)")
    parser.add_argument("--seed", type=int, default=int(env("SEED", "1")), help="of the random choices (SEED, 1)")
    parser.add_argument("--wait", type=int, default=int(env("WAIT", "180")), help="seconds for the server to come up")
    parser.add_argument("--login", metavar="USER", help="only print a new access token of this user, e.g. admin")
    options = parser.parse_args()
    if not options.login:
        if not options.secret:
            parser.error("REGISTRATION_SHARED_SECRET is not set")
        if options.users < 4 or options.rooms < 6:
            parser.error("at least 4 users and 6 rooms, or not every kind of room can be made")
    seeder = Seeder(Api(options.url), options)
    if options.login:
        print(seeder.login(options.login, "CONSOLE")["access_token"])
        return
    seeder.run()


if __name__ == "__main__":
    main()
