"""Makes the key of a restic repository one that is derived quickly.

    RESTIC_PASSWORD=... quick_key.py REPOSITORY

By design restic spends up to half a second of a core on the derivation, in every call, and has no setting for it. Tests call it a
thousand times, and nobody guesses their password. The repository is an ordinary one afterwards: its key file says how its key is
derived (https://restic.readthedocs.io/en/stable/100_references.html#keys-encryption-and-mac).
"""

import base64
import hashlib
import json
import os
import pathlib
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305


def derive(password, key):
    derived = hashlib.scrypt(
        password, salt=base64.b64decode(key["salt"]), n=key["N"], r=key["r"], p=key["p"], maxmem=1 << 30, dklen=64
    )
    return derived[:32], derived[32:48], derived[48:]


def decrypt(password, key):
    encryption, _, _ = derive(password, key)
    data = base64.b64decode(key["data"])
    return Cipher(algorithms.AES(encryption), modes.CTR(data[:16])).decryptor().update(data[16:-16])


def encrypt(password, key, plain):
    encryption, mac_k, mac_r = derive(password, key)
    nonce = os.urandom(16)
    encrypted = Cipher(algorithms.AES(encryption), modes.CTR(nonce)).encryptor().update(plain)
    mac_s = Cipher(algorithms.AES(mac_k), modes.ECB()).encryptor().update(nonce)
    return base64.b64encode(nonce + encrypted + Poly1305.generate_tag(mac_r + mac_s, encrypted)).decode()


keys = pathlib.Path(sys.argv[1]) / "keys"
password = os.environ["RESTIC_PASSWORD"].encode()
(slow,) = keys.iterdir()
key = json.loads(slow.read_bytes())
master = decrypt(password, key)
key |= {"N": 1024, "r": 8, "p": 1}
key["data"] = encrypt(password, key, master)
quick = json.dumps(key).encode()
(keys / hashlib.sha256(quick).hexdigest()).write_bytes(quick)
slow.unlink()
