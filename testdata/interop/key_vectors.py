"""The vectors of wrapped keys and of root slots, made with `cryptography` alone."""

import hashlib
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from envelope_vectors import fixed

ABOUT_WRAPPED = (
    "Vectors of spec/wrapped-key.md, made by testdata/interop/make_vectors.py. Bytes are in hex. `failing` are `valid` ones "
    "with what is named in `changed` put in place of the original; each must be refused."
)
ABOUT_SLOTS = (
    "Vectors of spec/root-slot.md, made by testdata/interop/make_vectors.py. Bytes are in hex. A slot opens to a root key; "
    "`hierarchy` holds a data key wrapped by a master key wrapped by that root key. `failing` names what the reader says."
)
PLACE = {"table": "data_key_version", "row": fixed("row", 16), "version": 3, "generation": 7}


def wrapping_key(kek, purpose, salt):
    info = b"keyrail/wrap/v1/" + purpose.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(kek)


def wrap_aad(purpose, table, row, version, generation):
    parts = [purpose.encode(), table.encode(), row, struct.pack(">I", version), struct.pack(">Q", generation)]
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def wrap(kek, purpose, key, salt, place):
    encrypted = AESGCM(wrapping_key(kek, purpose, salt)).encrypt(bytes(12), key, wrap_aad(purpose, **place))
    return b"\x01" + salt + encrypted


def wrapped(vector_id, kek_type, purpose, place):
    kek, key, salt = (fixed(f"{vector_id} {what}", 32) for what in ("kek", "key", "salt"))
    made = {"kek_type": kek_type, "key_type": purpose, "kek": kek, "key": key, "salt": salt} | place
    steps = {"wrapping_key": wrapping_key(kek, purpose, salt), "aad": wrap_aad(purpose, **place)}
    return {"id": vector_id} | made | steps | {"wrapped": wrap(kek, purpose, key, salt, place)}


def flipped(data, index):
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


def wrapped_keys():
    once = {"version": 1, "generation": 1}
    example = wrapped("worked-example", "MasterKey", "DataKey", PLACE)
    whole = example["wrapped"]
    valid = [
        example,
        wrapped("master-key", "RootKey", "MasterKey", {"table": "master_key_version", "row": fixed("master row", 16), "version": 2, "generation": 4}),
        wrapped("store-key", "RootKey", "StoreKey", {"table": "root_secret", "row": fixed("store row", 16)} | once),
        wrapped("signing-seed", "RootKey", "SigningSeed", {"table": "root_secret", "row": fixed("seed row", 16)} | once),
        wrapped("root-key", "SlotKey", "RootKey", {"table": "root_slot", "row": fixed("slot row", 16)} | once),
        wrapped("highest-numbers", "MasterKey", "DataKey", PLACE | {"version": 2**32 - 1, "generation": 2**64 - 1}),
    ]
    changes = {
        "wrong-kek": {"kek": fixed("another kek", 32)},
        "wrong-type": {"key_type": "MasterKey"},
        "wrong-table": {"table": "master_key_version"},
        "wrong-row": {"row": flipped(PLACE["row"], 0)},
        "wrong-version": {"version": 4},
        "wrong-generation": {"generation": 6},
        "version-and-generation-swapped": {"version": 7, "generation": 3},
        "format-0": {"wrapped": b"\x00" + whole[1:]},
        "format-2": {"wrapped": b"\x02" + whole[1:]},
        "altered-salt": {"wrapped": flipped(whole, 1)},
        "altered-key": {"wrapped": flipped(whole, 33)},
        "altered-tag": {"wrapped": flipped(whole, 80)},
        "swapped-wrapping": {"wrapped": valid[5]["wrapped"]},
        "truncated": {"wrapped": whole[:-1]},
        "trailing-byte": {"wrapped": whole + b"\x00"},
        "empty": {"wrapped": b""},
    }
    failing = [example | change | {"id": vector_id, "changed": list(change)} for vector_id, change in changes.items()]
    return {"about": ABOUT_WRAPPED, "valid": valid, "failing": failing}


def digest(label, key, length):
    return hashlib.sha256(b"keyrail/keyfile/" + label + b"/v1" + key).digest()[:length]


def key_file(key):
    return b"keyrail root key v1\n" + key + digest(b"checksum", key, 8)


def hierarchy(root):
    master, data = fixed("hierarchy master", 32), fixed("hierarchy data", 32)
    master_place = {"table": "master_key_version", "row": fixed("hierarchy master row", 16), "version": 1, "generation": 1}
    data_place = {"table": "data_key_version", "row": fixed("hierarchy data row", 16), "version": 1, "generation": 1}
    return {
        "master": master_place | {"wrapped": wrap(root, "MasterKey", master, fixed("hierarchy master salt", 32), master_place)},
        "data": data_place | {"wrapped": wrap(master, "DataKey", data, fixed("hierarchy data salt", 32), data_place)},
        "data_key": data,
    }


def slot(vector_id, tag, parameters, slot_key, **inputs):
    slot_id, salt, root = fixed(vector_id + " slot", 16), fixed(vector_id + " salt", 32), fixed("root key", 32)
    place = {"table": "root_slot", "row": slot_id, "version": 1, "generation": 1}
    stored = b"\x01" + slot_id + tag + parameters + wrap(slot_key, "RootKey", root, salt, place)
    named = {"slot_id": slot_id, "slot_key": slot_key, "wrap_salt": salt, "root_key": root}
    return {"id": vector_id} | inputs | named | {"slot": stored, "hierarchy": hierarchy(root)}


def key_file_slot(vector_id):
    key = fixed(vector_id + " key", 32)
    fingerprint = digest(b"fingerprint", key, 16)
    return slot(vector_id, b"\x01", fingerprint, key, kind="keyfile", key_file=key_file(key), fingerprint=fingerprint)


def passphrase_slot(vector_id, passphrase, memory_kib, passes, lanes):
    salt = fixed(vector_id + " passphrase salt", 16)
    stretch = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    inputs = {"kind": "passphrase", "passphrase": passphrase, "memory_kib": memory_kib, "passes": passes, "lanes": lanes}
    stored = struct.pack(">III", memory_kib, passes, lanes) + salt
    return slot(vector_id, b"\x02", stored, stretch.derive(passphrase.encode()), **inputs, salt=salt)


def pkcs11_digest(label, data):
    return hashlib.sha256(b"keyrail/pkcs11/" + label + b"/v1" + data).digest()


def computed(token_key, block_pair):
    encryptor = Cipher(algorithms.AES(token_key), modes.ECB()).encryptor()
    return encryptor.update(block_pair) + encryptor.finalize()


def pkcs11_slot(vector_id):
    key, slot_id = fixed(vector_id + " token key", 32), fixed(vector_id + " slot", 16)
    names = {"serial": "df6dbca511551a94", "token": "keyrail", "object": "keyrail-root", "key_id": fixed(vector_id + " key id", 16)}
    check = computed(key, pkcs11_digest(b"key-check", b""))
    fingerprint = pkcs11_digest(b"fingerprint", check)[:16]
    raw = [name if isinstance(name, bytes) else name.encode() for name in names.values()]
    parameters = b"".join(bytes([len(name)]) + name for name in raw) + fingerprint
    slot_key = computed(key, pkcs11_digest(b"slot-key", b"\x01" + slot_id + b"\x03" + parameters))
    return slot(vector_id, b"\x03", parameters, slot_key, kind="pkcs11", token_key=key, **names, fingerprint=fingerprint)


def with_parameters(stored, memory_kib, passes, lanes):
    return stored[:18] + struct.pack(">III", memory_kib, passes, lanes) + stored[30:]


def root_slots():
    by_file, other_file = key_file_slot("worked-example"), key_file_slot("other-key-file")
    by_words = passphrase_slot("passphrase", "correct horse battery staple", 8192, 1, 1)
    by_token = pkcs11_slot("pkcs11")
    valid = [by_file, by_words, passphrase_slot("passphrase-default", "Καλημέρα κόσμε", 65536, 3, 4), by_token]
    whole, words, content = by_file["slot"], by_words["slot"], by_file["key_file"]
    damaged = {
        "format-0": b"\x00" + whole[1:],
        "format-2": b"\x02" + whole[1:],
        "kind-0": whole[:17] + b"\x00" + whole[18:],
        "kind-9": whole[:17] + b"\x09" + whole[18:],
        "altered-id": flipped(whole, 1),
        "altered-wrap-salt": flipped(whole, 40),
        "altered-tag": flipped(whole, -1),
        "truncated": whole[:-1],
        "trailing-byte": whole + b"\x00",
        "empty": b"",
    }
    hostile = {
        "memory-64-gib": (64 * 1024 * 1024, 3, 4),
        "memory-low": (1024, 3, 4),
        "passes-17": (65536, 17, 4),
        "passes-0": (65536, 0, 4),
        "lanes-17": (65536, 3, 17),
        "lanes-0": (65536, 3, 0),
    }
    token = by_token["slot"]
    end = len(token) - 81
    by_token_damaged = {
        "pkcs11-altered-serial": flipped(token, 19),
        "pkcs11-altered-key-id": flipped(token, end - 17),
        "pkcs11-altered-wrap-salt": flipped(token, end + 1),
        "pkcs11-altered-tag": flipped(token, -1),
        "pkcs11-name-65": token[:18] + b"\x41" + b"x" * 65 + token[35:],
        "pkcs11-name-control": token[:19] + b"\x0a" + token[20:],
        "pkcs11-name-not-utf8": token[:19] + b"\xff" + token[20:],
        "pkcs11-truncated": token[:-1],
    }
    files = {
        "key-file-header": content.replace(b"v1", b"v2"),
        "key-file-altered": flipped(content, 25),
        "key-file-checksum": flipped(content, -1),
        "key-file-short": content[:-1],
        "key-file-newline": content + b"\n",
        "key-file-empty": b"",
    }
    failing = (
        [by_file | {"id": name, "failure": "slot-damaged", "slot": stored} for name, stored in damaged.items()]
        + [by_words | {"id": name, "failure": "slot-damaged", "slot": with_parameters(words, *numbers)} for name, numbers in hostile.items()]
        + [by_token | {"id": name, "failure": "slot-damaged", "slot": stored} for name, stored in by_token_damaged.items()]
        + [by_file | {"id": name, "failure": "malformed", "key_file": changed} for name, changed in files.items()]
        + [
            by_file | {"id": "wrong-key-file", "failure": "wrong-secret", "key_file": other_file["key_file"]},
            by_file | {"id": "altered-fingerprint", "failure": "wrong-secret", "slot": flipped(whole, 18)},
            by_words | {"id": "wrong-passphrase", "failure": "wrong-secret", "passphrase": "correct horse battery stapl"},
            by_words | {"id": "altered-passphrase-salt", "failure": "wrong-secret", "slot": flipped(words, 30)},
            by_token | {"id": "pkcs11-other-key", "failure": "other-key", "token_key": fixed("another token key", 32)},
            by_token | {"id": "pkcs11-altered-fingerprint", "failure": "other-key", "slot": flipped(token, end - 1)},
            by_token | {"id": "pkcs11-for-key-file", "failure": "other-kind", "slot": whole},
            by_words | {"id": "passphrase-for-key-file", "failure": "other-kind", "slot": whole},
            by_file | {"id": "key-file-for-passphrase", "failure": "other-kind", "slot": words},
        ]
    )
    for vector in failing:
        del vector["hierarchy"]
    return {"about": ABOUT_SLOTS, "valid": valid, "failing": failing}
