#!/usr/bin/env python3
"""Opens the protected values of a table with an exported key, by spec/asset-value.md and nothing of Keyrail.

    asset_value.py vectors FILE    checks every vector of a file like testdata/vectors/asset-value.json
    asset_value.py table           reads what to open as JSON from standard input, prints each value as a JSON line

Needs the packages cbor2 and cryptography.
"""

import base64
import hashlib
import json
import sqlite3
import struct
import sys

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PLAIN = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@:/")
CIPHERS = {3: AESGCM, 24: ChaCha20Poly1305}


def typed(value):
    """One value of a row identity: a letter for its class, then the value. Text comes as bytes in a tuple."""
    if value is None:
        return "n"
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return "r" + struct.pack(">d", value).hex()
    if isinstance(value, bytes):
        return "b" + value.hex()
    (text,) = value
    return "t" + text.decode() if all(byte in PLAIN for byte in text) else "x" + text.hex()


def row_identity(values):
    whole = ",".join(typed(value) for value in values)
    return whole if len(whole) <= 1024 else "h" + hashlib.sha256(whole.encode()).hexdigest()


def context(asset, column, row, value_class):
    pairs = {"keyrail.asset": asset, "keyrail.column": column}
    if row is not None:
        pairs["keyrail.row"] = row
    if value_class is not None:
        pairs["keyrail.class"] = value_class
    return pairs


def parts(envelope):
    tag = cbor2.loads(envelope)
    protected, unprotected, ciphertext, [[recipient, more, _]] = tag.value
    header = cbor2.loads(protected)
    return tag.tag, header[1], header[4], protected, unprotected[5], ciphertext, recipient, more[-20]


def content_cipher(key, alg, recipient, salt):
    info = cbor2.dumps([alg, [None] * 3, [None] * 3, [256, recipient]])
    return CIPHERS[alg](HKDF(SHA256(), 32, salt, info).derive(key))


def enc_structure(protected, key_id, pairs):
    ordered = dict(sorted(pairs.items(), key=lambda pair: cbor2.dumps(pair[0])))
    return cbor2.dumps(["Encrypt", protected, cbor2.dumps(["keyrail.envelope.v1", key_id, ordered])])


def open_envelope(key, kid, key_id, envelope, pairs):
    """The plaintext, or None if the envelope does not open."""
    tag, alg, found, protected, iv, ciphertext, recipient, salt = parts(envelope)
    if tag != 96 or found != kid:
        return None
    try:
        return content_cipher(key, alg, recipient, salt).decrypt(iv, ciphertext, enc_structure(protected, key_id, pairs))
    except InvalidTag:
        return None


def from_text(text):
    body = text.removeprefix("kr1.")
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def open_cell(keys, asset, column, row, stored, json_member=False):
    """A stored value as what it was: ("class", value). `stored` is bytes for a blob, a text for a text."""
    envelope = stored if isinstance(stored, bytes) else from_text(stored)
    for value_class in [None, "json"] if json_member else [None, "integer", "real"]:
        opened = open_envelope(*keys, envelope, context(asset, column, row, value_class))
        if opened is None:
            continue
        if value_class == "integer":
            return "integer", int(opened)
        if value_class == "real":
            return "real", float(opened)
        if value_class == "json":
            return "json", opened.decode()
        return ("blob", opened.hex()) if isinstance(stored, bytes) else ("text", opened.decode())
    return None


def value_of(described):
    """A value as the vectors write it."""
    kind, value = described["class"], described.get("value")
    if kind == "null":
        return None
    if kind == "integer":
        return int(value)
    if kind == "real":
        return float(value)
    if kind == "blob":
        return bytes.fromhex(described["hex"])
    return (bytes.fromhex(described["hex"]) if "hex" in described else value.encode(),)


def check_vectors(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    key = vectors["key"]
    keys = bytes.fromhex(key["key"]), bytes.fromhex(key["kid"]), bytes.fromhex(key["key_id"])
    for row in vectors["rows"]:
        found = row_identity([value_of(value) for value in row["values"]])
        assert found == row["row"], (row["id"], found)
    for cell in vectors["valid"] + vectors["failing"]:
        stored = bytes.fromhex(cell["stored_hex"]) if "stored_hex" in cell else cell["stored"]
        opened = open_cell(keys, cell["asset"], cell["column"], cell["row"], stored, cell.get("json_member", False))
        want = cell.get("opens_to")
        if want is None:
            assert opened is None, (cell["id"], opened)
        else:
            value = want.get("hex", want.get("value"))
            assert opened is not None and opened[0] == want["class"], (cell["id"], opened)
            assert str(opened[1]) == value or opened[1] == float(value), (cell["id"], opened)
    print(json.dumps({"rows": len(vectors["rows"]), "cells": len(vectors["valid"]), "failing": len(vectors["failing"])}))


def open_table(asked):
    keys = base64.b64decode(asked["key"]), bytes.fromhex(asked["kid"]), bytes.fromhex(asked["key_id"])
    database = sqlite3.connect(asked["database"])
    # Text as its bytes, told apart from blobs.
    database.text_factory = lambda text: (text,)
    names = ['"' + name.replace('"', '""') + '"' for name in [asked["name"], *asked["id_columns"]]]
    table = '"' + asked["table"].replace('"', '""') + '"'
    for stored, *identity in database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {names[-1]}"):
        row = row_identity(identity) if identity else None
        if stored is None:
            opened = ("null", None)
        else:
            plain = stored[0].decode() if isinstance(stored, tuple) else stored
            if asked.get("member"):
                plain = json.loads(plain)[asked["member"]]
            opened = open_cell(keys, asked["asset"], asked["column"], row, plain, bool(asked.get("member")))
        print(json.dumps({"row": row, "class": opened and opened[0], "value": opened and opened[1]}))


if __name__ == "__main__":
    if sys.argv[1] == "vectors":
        check_vectors(sys.argv[2])
    else:
        open_table(json.load(sys.stdin))
