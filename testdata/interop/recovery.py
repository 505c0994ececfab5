"""Opens what Keyrail hands out for a recovery: age files with `pyrage` and with the HPKE of `cryptography`, and shares with
the interpolation of SLIP-39; encrypts shares anew with `pyrage`. Reads `{"make": true}`, `{"identities": …, "files": …}` or
`{"text": …, "recipient": …}` from standard input."""

import base64
import hashlib
import hmac
import json
import sys

import pyrage
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from shamir_mnemonic.shamir import RawShare, _interpolate

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def bech32(kind, data):
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    check = 1
    for value in [ord(c) >> 5 for c in kind] + [0] + [ord(c) & 31 for c in kind] + values + [0] * 6:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    check ^= 1
    return kind + "1" + "".join(BECH32[value] for value in values + [check >> 5 * (5 - at) & 31 for at in range(6)])


def hybrid(seed):
    """The key pair of a 64-byte seed of ML-KEM and a 32-byte one of X25519."""
    lattice, curve = MLKEM768PrivateKey.from_seed_bytes(seed[:64]), X25519PrivateKey.from_private_bytes(seed[64:])
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, curve), public


def make():
    import os

    identity, seed = pyrage.x25519.Identity.generate(), os.urandom(96)
    pairs = [(str(identity), str(identity.to_public())), (seed.hex(), bech32("age1pq", hybrid(seed)[1]))]
    return [{"identity": secret, "recipient": public} for secret, public in pairs]


def unpadded(text):
    return base64.b64decode(text + "=" * (-len(text) % 4))


def derived(key, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def open_hybrid(seed, armored):
    """By c2sp.org/age: one stanza, one chunk."""
    file = base64.b64decode("".join(armored.strip().split("\n")[1:-1]))
    version, stanza, body, end = file.split(b"\n", 3)
    assert version == b"age-encryption.org/v1", version
    arrow, kind, share = stanza.decode().split(" ")
    assert (arrow, kind) == ("->", "mlkem768x25519"), stanza
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    sealed = unpadded(share) + unpadded(body.decode())
    file_key = suite.decrypt(sealed, hybrid(seed)[0], info=b"age-encryption.org/mlkem768x25519")
    mac, payload = end.split(b"\n", 1)
    header = b"\n".join([version, stanza, body, b"---"])
    expected = hmac.digest(derived(file_key, b"", b"header"), header, "sha256")
    assert mac == b"--- " + base64.b64encode(expected).rstrip(b"="), "the header's MAC"
    key = derived(file_key, payload[:16], b"payload")
    return ChaCha20Poly1305(key).decrypt(bytes(11) + b"\x01", payload[16:], None)


def opened(identity, armored):
    if identity.startswith("AGE-SECRET-KEY-1"):
        return pyrage.decrypt(armored.encode(), [pyrage.x25519.Identity.from_str(identity)]).decode()
    return open_hybrid(bytes.fromhex(identity), armored).decode()


def parts(text):
    signs = text.strip().removeprefix("krs1.").replace("-", "")
    data = int("".join(f"{CROCKFORD.index(sign):05b}" for sign in signs), 2).to_bytes(60, "big")
    assert data[52:] == hashlib.sha256(b"keyrail/share/checksum/v1" + data[:52]).digest()[:8], "the checksum"
    return {"format": data[0], "set": data[1:17].hex(), "threshold": data[17], "total": data[18], "index": data[19]}, data[20:52]


def combine(texts):
    read = [parts(text) for text in texts]
    secret = _interpolate([RawShare(head["index"], value) for head, value in read], 0)
    fingerprint = hashlib.sha256(b"keyrail/recovery/fingerprint/v1" + secret).digest()[:16]
    return {"heads": [head for head, _ in read], "fingerprint": fingerprint.hex()}


def encrypted(text, recipient):
    """Both forms of an age file."""
    to = [pyrage.x25519.Recipient.from_str(recipient)]
    forms = [pyrage.encrypt(text.encode(), to, armored=armored) for armored in (True, False)]
    return [base64.b64encode(form).decode() for form in forms]


def answer(asked):
    if asked.get("make"):
        return make()
    if "text" in asked:
        return encrypted(asked["text"], asked["recipient"])
    texts = [opened(identity, file) for identity, file in zip(asked["identities"], asked["files"], strict=True)]
    return {"texts": texts} | combine(texts)


json.dump(answer(json.load(sys.stdin)), sys.stdout)
