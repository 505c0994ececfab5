"""Verifies an audit log by spec/audit-log.md, from its files and the public key alone; shares no code with Keyrail.

    verify_log.py DIR PUBLIC-KEY    prints {"origin", "records", "root"}; otherwise one sentence and status 1
"""

import base64
import hashlib
import json
import os
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Bad(Exception):
    pass


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def root_of(leaves):
    """RFC 6962, section 2.1, as it is written."""
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\x01", root_of(leaves[:k]), root_of(leaves[k:]))


def open_checkpoint(note, public_key):
    name, key_id, encoded = public_key.split("+", 2)
    typed = base64.b64decode(encoded, validate=True)
    if typed[:1] != b"\x01" or sha(name.encode(), b"\n", typed)[:4].hex() != key_id:
        raise Bad("not a public key")
    text, _, line = note.partition("\n\n")
    dash, signer, signature = line.removesuffix("\n").split(" ")
    signature = base64.b64decode(signature, validate=True)
    if (dash, signer, signature[:4].hex()) != ("\u2014", name, key_id):
        raise Bad("checkpoint: another key signed it")
    try:
        Ed25519PublicKey.from_public_bytes(typed[1:]).verify(signature[4:], f"{text}\n".encode())
    except InvalidSignature:
        raise Bad("checkpoint: its signature is wrong") from None
    origin, size, root = text.split("\n")
    if origin != name:
        raise Bad("checkpoint: it is of another log")
    return origin, int(size), base64.b64decode(root, validate=True)


def tile_path(kind, number, width):
    digits = f"{number:03d}" if number < 1000 else None
    if digits is None:
        groups = []
        while number:
            number, group = divmod(number, 1000)
            groups.insert(0, f"{group:03d}")
        digits = "/".join(f"x{group}" for group in groups[:-1]) + "/" + groups[-1]
    return f"{kind}/{digits}" + (f".p/{width}" if width < 256 else "")


def split(content, len_size, salt_size):
    found, place = [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + len_size], "big")
        end = place + len_size + salt_size + length
        if end > len(content):
            raise Bad("a file ends in the middle of a record")
        found.append(content[place + len_size : end])
        place = end
    return found


def verify(directory, public_key):
    files = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                raise Bad(f"{path}: a link")
            with open(path, "rb") as file:
                files[os.path.relpath(path, directory)] = file.read()
    if "checkpoint" not in files:
        raise Bad("checkpoint: missing")
    origin, size, root = open_checkpoint(files.pop("checkpoint").decode(), public_key)

    def take(kind, number, width):
        path = tile_path(kind, number, width)
        if path not in files:
            raise Bad(f"{path}: missing")
        return path, files.pop(path)

    level, leaves = 0, []
    for first in range(0, size, 256):
        width = min(256, size - first)
        path, content = take("body", first // 256, width)
        entries = [sha(b"keyrail/audit/entry/v1\0", record) for record in split(content, 4, 16)]
        if len(entries) != width:
            raise Bad(f"{path}: not {width} records")
        path, content = take("tile/entries", first // 256, width)
        if split(content, 2, 0) != entries:
            raise Bad(f"{path}: not the entries of the bodies")
        leaves += [sha(b"\0", entry) for entry in entries]
    hashes = leaves
    while hashes:
        for first in range(0, len(hashes), 256):
            row = hashes[first : first + 256]
            path, content = take(f"tile/{level}", first // 256, len(row))
            if content != b"".join(row):
                raise Bad(f"{path}: not the hashes of what is below")
        full = len(hashes) // 256 * 256
        hashes = [root_of(hashes[first : first + 256]) for first in range(0, full, 256)]
        level += 1
    if root_of(leaves) != root:
        raise Bad("checkpoint: not the root of the records")
    if files:
        raise Bad(f"{min(files)}: not a file of the log")
    return {"origin": origin, "records": size, "root": root.hex()}


if __name__ == "__main__":
    try:
        print(json.dumps(verify(sys.argv[1], sys.argv[2])))
    except (Bad, ValueError, UnicodeDecodeError) as bad:
        sys.exit(f"the log does not verify: {bad}")
