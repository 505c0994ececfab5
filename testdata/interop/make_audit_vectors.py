"""Makes audit-log.json, journal.json, sealed-row.json and state-map.json by the pages in spec/, without code of Keyrail.

    make_audit_vectors.py DIR    writes the four files into DIR

All bytes come from SHA-256 over a name, so that every run makes the same files.
"""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verify_log import root_of, sha, tile_path

ORIGIN = "keyrail.example/log"


def some(name, length=32):
    return hashlib.sha256(name.encode()).digest()[:length]


SEED = Ed25519PrivateKey.from_private_bytes(some("seed of the log"))
TYPED = b"\x01" + SEED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
KEY_ID = sha(ORIGIN.encode(), b"\n", TYPED)[:4]
PUBLIC_KEY = f"{ORIGIN}+{KEY_ID.hex()}+{base64.b64encode(TYPED).decode()}"


def checkpoint(size, root):
    text = f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n"
    signature = base64.b64encode(KEY_ID + SEED.sign(text.encode())).decode()
    return f"{text}\n\u2014 {ORIGIN} {signature}\n".encode()


def record(index):
    return some(f"salt {index}", 16), f"record {index}".encode()


def framed(salt, body):
    return len(body).to_bytes(4, "big") + salt + body


def log(size):
    files, leaves = {}, []
    for first in range(0, size, 256):
        rows = [record(index) for index in range(first, min(first + 256, size))]
        entries = [sha(b"keyrail/audit/entry/v1\0", salt, body) for salt, body in rows]
        files[tile_path("body", first // 256, len(rows))] = b"".join(framed(*row) for row in rows)
        files[tile_path("tile/entries", first // 256, len(rows))] = b"".join(b"\0\x20" + entry for entry in entries)
        leaves += [sha(b"\0", entry) for entry in entries]
    hashes, level = leaves, 0
    while hashes:
        for first in range(0, len(hashes), 256):
            row = hashes[first : first + 256]
            files[tile_path(f"tile/{level}", first // 256, len(row))] = b"".join(row)
        full = len(hashes) // 256 * 256
        hashes, level = [root_of(hashes[first : first + 256]) for first in range(0, full, 256)], level + 1
    files["checkpoint"] = checkpoint(size, root_of(leaves))
    return files


def audit_log():
    valid = []
    for size in (0, 1, 3, 258):
        files = log(size)
        shown = {path: base64.b64encode(content).decode() for path, content in sorted(files.items())}
        valid.append({"id": f"size-{size}", "records": size, "files": shown})
    three, more = log(3), log(258)
    other = checkpoint(3, some("another root"))

    def failing(name, of, file, content, named=None, source=None):
        shown = None if content is None else base64.b64encode(content).decode()
        return {"id": name, "of": of, "file": file, "content": shown, "named": named or file}

    body, entries, tile = three["body/000.p/3"], three["tile/entries/000.p/3"], three["tile/0/000.p/3"]
    note = three["checkpoint"].decode()
    cases = [
        failing("altered-body", "size-3", "body/000.p/3", body[:-1] + b"x"),
        failing("altered-salt", "size-3", "body/000.p/3", body[:4] + b"\0" + body[5:]),
        failing("cut-body", "size-3", "body/000.p/3", body[:-1]),
        failing("missing-body", "size-3", "body/000.p/3", None),
        failing("altered-entry", "size-3", "tile/entries/000.p/3", entries[:-1] + b"x"),
        failing("longer-entries", "size-3", "tile/entries/000.p/3", entries + b"\0"),
        failing("altered-hash", "size-3", "tile/0/000.p/3", tile[:-1] + b"x"),
        failing("altered-upper-hash", "size-258", "tile/1/000.p/1", some("another hash")),
        failing("missing-full-tile", "size-258", "tile/0/000", None),
        failing("extra-file", "size-3", "note", b"a note"),
        failing("stale-partial-tile", "size-3", "tile/0/000.p/2", tile[:64]),
        failing("future-partial-tile", "size-3", "tile/0/000.p/4", tile + some("more")),
        failing("future-full-tile", "size-258", "tile/0/001", more["tile/0/000"]),
        failing("other-root", "size-3", "checkpoint", other),
        failing("altered-size", "size-3", "checkpoint", note.replace("\n3\n", "\n2\n").encode()),
        failing("leading-zero", "size-3", "checkpoint", note.replace("\n3\n", "\n03\n").encode()),
        failing("no-signature", "size-3", "checkpoint", note.partition("\u2014")[0].encode()),
        failing("second-signature", "size-3", "checkpoint", (note + note.partition("\n\n")[2]).encode()),
        failing("extension-line", "size-3", "checkpoint", note.replace("\n\n", "\nmore\n\n").encode()),
        failing("empty-checkpoint", "size-3", "checkpoint", b""),
    ]
    return {
        "about": "Vectors of spec/audit-log.md, made by testdata/interop/make_audit_vectors.py. Files are in base64. "
        "`failing` are `valid` ones with one file replaced, added, or (null) removed; each must be refused, naming `named`.",
        "public_key": PUBLIC_KEY,
        "valid": valid,
        "failing": cases,
        "published": {
            "source": "documentation of golang.org/x/mod/sumdb/note (BSD-3-Clause)",
            "public_key": "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "note": "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
            "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
        },
    }


STORE_KEY, ROOT_KEY, SLOT_KEY = some("store key"), some("root key"), some("slot key")


def hkdf(secret, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt or None, info=info).derive(secret)


def parts(*values):
    return b"".join(len(value).to_bytes(8, "big") + value for value in values)


def wrap(kek, kind, key):
    """By spec/wrapped-key.md, in table `test`, row of zeros, version and generation 1."""
    salt = some(f"salt of {kind}")
    aad = parts(kind.encode(), b"test", bytes(16), (1).to_bytes(4, "big"), (1).to_bytes(8, "big"))
    sealed = AESGCM(hkdf(kek, salt, f"keyrail/wrap/v1/{kind}".encode())).encrypt(bytes(12), key, aad)
    return (b"\x01" + salt + sealed).hex()


KEYS = {
    "slot_key": SLOT_KEY.hex(),
    "root_key": wrap(SLOT_KEY, "RootKey", ROOT_KEY),
    "store_key": wrap(ROOT_KEY, "StoreKey", STORE_KEY),
    "signing_seed": wrap(ROOT_KEY, "SigningSeed", some("seed of the log")),
    "store_key_plain": STORE_KEY.hex(),
}


def mac_key(purpose):
    return hkdf(STORE_KEY, b"", b"keyrail/mac/v1/" + purpose.encode())


def tag(key, *values):
    return hmac.new(key, parts(*values), hashlib.sha256).digest()


def journal():
    key, magic, sequence = mac_key("journal"), b"keyrail audit journal 1\n", (1).to_bytes(8, "big")
    chain, content, frames = tag(key, magic, sequence), magic, []

    def frame(kind, first, payload):
        nonlocal chain, content
        head = bytes([kind]) + len(payload).to_bytes(4, "big") + first.to_bytes(8, "big")
        check, chain_next = tag(key, chain, head)[:16], tag(key, chain, head, payload)
        whole = head + check + payload + chain_next
        if len(content) % 512 + 29 > 512:
            content += bytes(512 - len(content) % 512)
        frames.append({"offset": len(content), "head": head.hex(), "check": check.hex(), "payload": payload.hex(), "tag": chain_next.hex()})
        chain, content = chain_next, content + whole

    frame(1, 0, bytes(8) + b"\0")
    frame(2, 0, framed(*record(0)) + framed(*record(1)))
    frame(2, 2, framed(*record(2)))
    last = frames[2]["offset"]
    second = frames[1]["offset"]
    example, example_frames = content, frames[:]
    frame(2, 3, framed(*record(3)) + framed(*record(4)))
    frame(2, 5, framed(*record(5)))
    gap = len(content)
    frame(2, 6, framed(*record(6)))
    sectors, content, frames = content, example, example_frames

    def flipped(place):
        return (content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]).hex()

    def torn(end):
        return len(content[last:end].rstrip(b"\0"))

    return {
        "about": "Vectors of spec/journal.md, made by testdata/interop/make_audit_vectors.py. Bytes are in hex. A reader of "
        "`valid` finds `records` records; one of `failing` refuses the file and names byte `offset`.",
        "keys": KEYS,
        "journal_key": key.hex(),
        "file_name": "journal-00000000000000000001",
        "frames": frames,
        "valid": [
            {"id": "worked-example", "content": content.hex(), "records": 3, "torn": 0},
            {"id": "torn-last-frame", "content": content[:-1].hex(), "records": 2, "torn": torn(len(content) - 1)},
            {"id": "torn-head", "content": content[: last + 12].hex(), "records": 2, "torn": torn(last + 12)},
            {"id": "zeros-at-the-end", "content": (content + bytes(100)).hex(), "records": 3, "torn": 0},
            {"id": "last-content-not-whole", "content": flipped(len(content) - 40), "records": 2, "torn": len(content) - last},
            {"id": "last-head-not-kept", "content": (content[:last] + bytes(29) + content[last + 29 :]).hex(), "records": 2, "torn": len(content) - last},
            {"id": "last-content-not-whole-before-zeros", "content": flipped(len(content) - 40) + bytes(100).hex(), "records": 2, "torn": len(content) - last},
            {"id": "head-in-the-next-sector", "content": sectors.hex(), "records": 7, "torn": 0},
        ],
        "failing": [
            {"id": "altered-magic", "content": flipped(3), "offset": 0},
            {"id": "altered-length", "content": flipped(second + 3), "offset": second},
            {"id": "altered-payload", "content": flipped(second + 40), "offset": second},
            {"id": "altered-tag", "content": flipped(last - 1), "offset": second},
            {"id": "altered-last-head", "content": flipped(last), "offset": last},
            {"id": "frame-left-out", "content": (content[:second] + content[last:]).hex(), "offset": second},
            {"id": "altered-gap", "content": (sectors[:gap] + b"x" + sectors[gap + 1 :]).hex(), "offset": gap},
        ],
    }


def typed(value):
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i" + value.to_bytes(8, "big", signed=True)
    if isinstance(value, str):
        return b"t" + value.encode()
    return b"b" + value


def sealed_row():
    ident = some("id of the domain", 16)
    rows = [
        ("worked-example", "domain", [("id", ident), ("name", "acme"), ("created_at", 1_795_512_600_007), ("generation", 1)]),
        ("next-generation", "domain", [("id", ident), ("name", "acme"), ("created_at", 1_795_512_600_007), ("generation", 2)]),
        (
            "null-and-negative",
            "master_key_version",
            [
                ("id", some("id of the version", 16)),
                ("master_key", some("id of the master key", 16)),
                ("version", 2),
                ("state", "destroyed"),
                ("wrapped", None),
                ("wrap_generation", 1),
                ("activated_at", -1),
                ("state_changed_at", 1_795_512_600_007),
                ("generation", 5),
            ],
        ),
    ]
    request = [
        ("key_hash", some("hash of the idempotency key", 32)),
        ("request_sha256", some("hash of the request", 32)),
        ("answer", None),
        ("request", some("id of the request", 16)),
        ("expires_at", 1_795_512_600_007),
        ("generation", 1),
    ]
    # A column that a later schema added: left out where it is NULL.
    rows.append(("added-null", "idempotency", [*request, ("principal", None)]))
    rows.append(("added-value", "idempotency", [*request, ("principal", "local-operator")]))
    added = {"idempotency": ["principal"], "data_key_version": ["destroy_began_at"]}
    valid = []
    for name, table, columns in rows:
        key = mac_key(f"keyrail/store/{table}")
        covered = [b"keyrail/row/v1", table.encode()]
        for column, value in columns:
            if value is None and column in added.get(table, []):
                continue
            covered += [column.encode(), typed(value)]
        shown = [[column, value.hex() if isinstance(value, bytes) else value] for column, value in columns]
        valid.append({"id": name, "table": table, "table_key": key.hex(), "columns": shown, "covered": parts(*covered).hex(), "seal": tag(key, *covered).hex()})
    return {
        "about": "Vectors of spec/sealed-row.md, made by testdata/interop/make_audit_vectors.py. Bytes are in hex.",
        "keys": KEYS,
        "valid": valid,
    }


def row_seal(table, columns):
    covered = [b"keyrail/row/v1", table.encode()]
    for column, value in columns:
        covered += [column.encode(), typed(value)]
    return tag(mac_key(f"keyrail/store/{table}"), *covered)


def place(first, *values):
    out = bytes([first])
    for value in values:
        if value is None:
            out += b"n"
        elif isinstance(value, int):
            out += b"i" + (value + 2**63).to_bytes(8, "big")
        else:
            letter, raw = (b"t", value.encode()) if isinstance(value, str) else (b"b", value)
            long = len(raw) > 128
            out += letter.upper() + hashlib.sha256(raw).digest() if long else letter + bytes([len(raw)]) + raw
    return out


def node(level, entries):
    out = b"\x01" + bytes([level]) + len(entries).to_bytes(2, "big")
    for key, child, seal in entries:
        out += len(key).to_bytes(2, "big") + key + (child.to_bytes(8, "big") if level else b"") + seal
    return out


def state_map():
    domain = [("id", some("id of the domain", 16)), ("name", "acme"), ("created_at", 1_795_512_600_007), ("generation", 1)]
    master_key = [
        ("id", some("id of the master key", 16)),
        ("domain", domain[0][1]),
        ("environment", "prod"),
        ("created_at", 1_795_512_600_007),
        ("generation", 1),
    ]
    version = [
        ("id", some("id of the version", 16)),
        ("master_key", master_key[0][1]),
        ("version", 2),
        ("state", "destroyed"),
        ("wrapped", None),
        ("wrap_generation", 1),
        ("activated_at", -1),
        ("state_changed_at", 1_795_512_600_007),
        ("generation", 5),
    ]
    entries = [
        (place(4, domain[0][1]), 0, row_seal("domain", domain)),
        (place(6, master_key[0][1]), 0, row_seal("master_key", master_key)),
        (place(7, version[0][1]), 0, row_seal("master_key_version", version)),
        (place(0x87, master_key[0][1], version[0][1]), 0, bytes(32)),
    ]

    def stored(entries, generation):
        content = node(0, entries)
        seal = row_seal("map_node", [("id", 1), ("bytes", content), ("generation", generation)])
        head = [
            ("root_node", 1),
            ("root", seal),
            ("next_node", 2),
            ("entries", len(entries)),
            ("recorded", None),
            ("recorded_generation", 0),
            ("generation", generation),
        ]
        head_seal = row_seal("map_head", [("only", 1), *head])
        shown = [[column, value.hex() if isinstance(value, bytes) else value] for column, value in head]
        return {"bytes": content.hex(), "seal": seal.hex(), "head": shown, "head_seal": head_seal.hex()}

    branch = node(1, [(b"", 3, some("seal of node 3")), (place(9), 7, some("seal of node 7"))])
    leaf = node(0, entries[:2])
    places = [
        ("place-of-ids", "data_key_version", [some("kid", 16)], place(10, some("kid", 16))),
        ("place-of-words", "usage", [some("kid", 16), "system", "data.encrypt", "asset"], place(16, some("kid", 16), "system", "data.encrypt", "asset")),
        ("place-of-a-number", "log_head", [1], place(18, 1)),
        ("place-of-a-negative-number", "log_head", [-2], place(18, -2)),
        ("place-of-long-text", "accepted_damage", [some("asset", 16), some("column", 16), "x" * 129], place(14, some("asset", 16), some("column", 16), "x" * 129)),
    ]
    failing = [
        ("other-format", b"\x02" + leaf[1:]),
        ("more-behind", leaf + b"\0"),
        ("cut-off", leaf[:-1]),
        ("not-in-order", node(0, [entries[1], entries[0]])),
        ("twice", node(0, [entries[0], entries[0]])),
        ("branch-of-nothing", node(1, [])),
        ("too-many", node(0, [(bytes([4, index]), 0, bytes(32)) for index in range(65)])),
        ("key-too-long", node(0, [(bytes([4]) * 1025, 0, bytes(32))])),
    ]
    hexed = lambda values: [value.hex() if isinstance(value, bytes) else value for value in values]
    return {
        "about": "Vectors of spec/state-map.md, made by testdata/interop/make_audit_vectors.py. Bytes are in hex.",
        "keys": KEYS,
        "valid": [
            {"id": "worked-example", **stored(entries[:1], 1)},
            {"id": "with-an-owner", **stored(entries, 2)},
        ],
        "nodes": [{"id": "leaf", "bytes": leaf.hex()}, {"id": "branch", "bytes": branch.hex()}, {"id": "empty", "bytes": node(0, []).hex()}],
        "places": [{"id": name, "table": table, "key": hexed(key), "place": made.hex()} for name, table, key, made in places],
        "failing": [{"id": name, "bytes": made.hex()} for name, made in failing],
    }


if __name__ == "__main__":
    for name, made in (("audit-log", audit_log()), ("journal", journal()), ("sealed-row", sealed_row()), ("state-map", state_map())):
        with open(f"{sys.argv[1]}/{name}.json", "w", encoding="utf-8") as file:
            json.dump(made, file, indent=1, ensure_ascii=False)
            file.write("\n")
