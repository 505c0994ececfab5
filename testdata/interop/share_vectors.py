"""The vectors of recovery shares, dealt with the interpolation of SLIP-39 (`shamir-mnemonic`)."""

import hashlib

from shamir_mnemonic.shamir import RawShare, _interpolate

from envelope_vectors import fixed
from key_vectors import flipped, wrap

ABOUT = (
    "Vectors of spec/recovery-share.md, made by testdata/interop/make_vectors.py. Bytes are in hex. `valid` shares open "
    "`slot` to `root_key`, any `threshold` of them. `failing` must be refused; `failure` is what the reader says, and "
    "`named` the place of the share in the list that it names."
)
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def text_of(data):
    number = int.from_bytes(data, "big")
    signs = [ALPHABET[number >> 5 * (95 - at) & 31] for at in range(96)]
    return "krs1." + "-".join("".join(signs[at : at + 6]) for at in range(0, 96, 6))


def share(set_id, threshold, total, index, value, form=1):
    body = bytes([form]) + set_id + bytes([threshold, total, index]) + value
    return text_of(body + hashlib.sha256(b"keyrail/share/checksum/v1" + body).digest()[:8])


def dealt(vector_id, threshold, total):
    key, set_id = fixed(f"{vector_id} key", 32), fixed(f"{vector_id} set", 16)
    # Through the key and so many random shares goes one polynomial; the other shares lie on it.
    known = [RawShare(0, key)] + [RawShare(index, fixed(f"{vector_id} share {index}", 32)) for index in range(1, threshold)]
    values = [_interpolate(known, index) for index in range(1, total + 1)]
    slot_id, salt, root = fixed(vector_id + " slot", 16), fixed(vector_id + " salt", 32), fixed("root key", 32)
    fingerprint = hashlib.sha256(b"keyrail/recovery/fingerprint/v1" + key).digest()[:16]
    place = {"table": "root_slot", "row": slot_id, "version": 1, "generation": 1}
    stored = b"\x01" + slot_id + b"\x04" + set_id + bytes([threshold, total]) + fingerprint
    stored += wrap(key, "RootKey", root, salt, place)
    shares = {f"share_{index}": share(set_id, threshold, total, index, value) for index, value in enumerate(values, 1)}
    named = {"set": set_id, "threshold": threshold, "total": total, "slot_key": key, "fingerprint": fingerprint}
    kept = {"slot_id": slot_id, "wrap_salt": salt, "root_key": root, "slot": stored}
    return {"id": vector_id} | named | shares | kept, values


def share_vectors():
    (example, values), (pair, _), (all_sixteen, _) = dealt("worked-example", 3, 5), dealt("two-of-two", 2, 2), dealt("sixteen", 16, 16)
    stored, other = example["slot"], dealt("other-set", 3, 5)[0]
    one, two, three, four = (example[f"share_{index}"] for index in range(1, 5))
    forged = share(example["set"], 3, 5, 4, flipped(values[3], 7))
    typo = three[:20] + ("8" if three[20] == "7" else "7") + three[21:]
    lists = {
        "too-few": ("too-few-shares", None, [one, two]),
        "none": ("too-few-shares", None, []),
        "twice": ("share", 2, [one, two, two]),
        "other-set": ("share", 1, [one, other["share_2"], three]),
        "another-set": ("wrong-secret", None, [other["share_1"], other["share_2"], other["share_3"]]),
        "forged-of-three": ("shares-do-not-open", None, [one, two, forged]),
        "forged-of-four": ("share", 3, [one, two, three, forged]),
        "other-threshold": ("share", 1, [one, share(example["set"], 2, 5, 2, values[1]), three]),
        "altered-sign": ("share", 2, [one, two, typo]),
        "short": ("share", 0, [one[:-1], two, three]),
        "long": ("share", 0, [one + "0", two, three]),
        "other-prefix": ("share", 0, ["krs2" + one[4:], two, three]),
        "other-format": ("share", 0, [share(example["set"], 3, 5, 1, values[0], form=2), two, three]),
        "index-0": ("share", 0, [share(example["set"], 3, 5, 0, values[0]), two, three]),
        "index-6": ("share", 0, [share(example["set"], 3, 5, 6, values[0]), two, three]),
        "total-17": ("share", 0, [share(example["set"], 3, 17, 1, values[0]), two, three]),
        "threshold-1": ("share", 0, [share(example["set"], 1, 5, 1, values[0]), two, three]),
    }
    failing = [
        {"id": name, "failure": failure, "named": named, "slot": stored, "shares": shares}
        for name, (failure, named, shares) in lists.items()
    ]
    slots = {
        "slot-threshold-1": stored[:34] + b"\x01" + stored[35:],
        "slot-total-17": stored[:35] + b"\x11" + stored[36:],
        "slot-short": stored[:-1],
        "altered-wrap": flipped(stored, -1),
    }
    failing += [
        {"id": name, "failure": "slot-damaged", "named": None, "slot": slot, "shares": [one, two, four]}
        for name, slot in slots.items()
    ]
    return {"about": ABOUT, "valid": [example, pair, all_sixteen], "failing": failing}
