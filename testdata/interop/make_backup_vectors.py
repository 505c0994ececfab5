"""Makes testdata/vectors/backup.json from spec/backup.md, with code that is not Keyrail's (PyPI: cryptography)."""

import hashlib
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VECTORS = Path(__file__).parent.parent / "vectors"
SALT = bytes.fromhex("5b0e6f0c2f6a4d0f9a3c71c8e4b2d6950718293a4b5c6d7e8f90a1b2c3d4e5f6")
ROW_ID = bytes.fromhex("22acb2be0ce3e6491366546bde62c197")
ROW_SEAL = bytes.fromhex("fa2fbd5bc0b3c15b781ced9fba3c9e2c873cb5c7ee610aa42711e2a409295173")
MANIFEST = {
    "store": "00112233445566778899aabbccddeeff",
    "time": "2026-11-29T14:15:03.123Z",
    "origin": "keyrail/0123456789abcdef",
    "public_key": "keyrail/0123456789abcdef+61b6d0d1+AT1AF8PoQ4laqStwp00bfryYLMDyzsSWjM0M1V8SmvRm",
    "log_size": 7,
    "log_root": "b3" * 32,
    "generation": 9,
    "state_root": "e7d19743b298fd066c4996edf045d0515ba412a2c74339808b9e1895ee35354c",
    "configured_root": "keyfile:/media/usb/root.key",
    "rows": {"domain": 1},
}


def prefixed(part: bytes) -> bytes:
    return struct.pack(">I", len(part)) + part


def item(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + prefixed(content)


def rows() -> bytes:
    names = [b"domain", b"id", b"name", b"created_at", b"generation"]
    values = [
        b"b" + prefixed(ROW_ID),
        b"t" + prefixed(b"acme"),
        b"i" + struct.pack(">q", 1795512600007),
        b"i" + struct.pack(">q", 1),
        b"b" + prefixed(ROW_SEAL),
    ]
    table = item(1, b"".join(prefixed(name) for name in names))
    return table + item(2, b"".join(values)) + item(3, struct.pack(">Q", 1))


def main() -> None:
    slot_vector = json.loads((VECTORS / "root-slot.json").read_text())["valid"][0]
    slot, root_key = bytes.fromhex(slot_vector["slot"]), bytes.fromhex(slot_vector["root_key"])
    header = b"keyrail\x16\x01" + SALT + b"\x01" + struct.pack(">H", len(slot)) + slot
    info = b"keyrail/backup/v1/" + hashlib.sha256(header).digest()
    key = HKDF(hashes.SHA256(), 32, SALT, info).derive(root_key)

    def part(number: int, last: bool, content: bytes) -> bytes:
        nonce = bytes(7) + struct.pack(">I", number) + bytes([last])
        sealed = AESGCM(key).encrypt(nonce, content, b"")
        return struct.pack(">II", number, len(sealed) | (last << 31)) + sealed

    manifest = json.dumps(MANIFEST, separators=(",", ":"))
    vector = {
        "id": "worked-example",
        "root_key": root_key.hex(),
        "slot": slot.hex(),
        "salt": SALT.hex(),
        "key": key.hex(),
        "manifest": manifest,
        "rows": rows().hex(),
        "name": "keyrail-00112233-20261129T141503Z-000000000007.backup",
        "file": (header + part(0, False, manifest.encode()) + part(1, True, rows())).hex(),
    }
    about = "Vectors of spec/backup.md, made by testdata/interop/make_backup_vectors.py. Bytes are in hex."
    text = json.dumps({"about": about, "valid": [vector], "failing": []}, indent=1)
    (VECTORS / "backup.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
