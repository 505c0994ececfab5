#!/usr/bin/env python3
"""Makes testdata/vectors/asset-value.json with cbor2 and cryptography alone: prints the file."""

import base64
import hashlib
import json

import asset_value as spec
import cbor2


def fixed(text, length):
    return hashlib.sha256(b"keyrail asset-value vectors: " + text.encode()).digest()[:length]


KEY, KID, KEY_ID = fixed("key", 32), fixed("kid", 16), fixed("data key id", 16)
ASSET, COLUMN, OTHER = (fixed(name, 16).hex() for name in ["asset", "column", "another column"])


def seal(name, plaintext, pairs, alg=3):
    salt, iv = fixed(f"salt of {name}", 32), fixed(f"iv of {name}", 12)
    protected, recipient = cbor2.dumps({1: alg, 4: KID}), cbor2.dumps({1: -10})
    cipher = spec.content_cipher(KEY, alg, recipient, salt)
    ciphertext = cipher.encrypt(iv, plaintext, spec.enc_structure(protected, KEY_ID, pairs))
    body = [protected, {5: iv}, ciphertext, [[recipient, {-20: salt}, b""]]]
    return salt, iv, cbor2.dumps(cbor2.CBORTag(96, body))


def text(envelope):
    return "kr1." + base64.urlsafe_b64encode(envelope).rstrip(b"=").decode()


def cell(name, about, value, row="i7", value_class=None, blob=False, json_member=False):
    plaintext = bytes.fromhex(value["hex"]) if "hex" in value else value["value"].encode()
    pairs = spec.context(ASSET, COLUMN, row, value_class)
    salt, iv, envelope = seal(name, plaintext, pairs)
    made = {"id": name, "about": about, "asset": ASSET, "column": COLUMN, "row": row}
    if json_member:
        made["json_member"] = True
    stored = {"stored_hex": envelope.hex()} if blob else {"stored": text(envelope)}
    return {**made, "context": pairs, "plaintext": plaintext.hex(), "salt": salt.hex(), "iv": iv.hex(), **stored, "opens_to": value}


def rows():
    def row(name, values, want):
        assert spec.row_identity([spec.value_of(value) for value in values]) == want, name
        return {"id": name, "values": values, "row": want}

    integer = lambda value: {"class": "integer", "value": str(value)}
    real = lambda value: {"class": "real", "value": value}
    plain = lambda value: {"class": "text", "value": value}
    blob = lambda value: {"class": "blob", "hex": value}
    long = [blob("01" * 600)]
    limit = [plain("a" * 1023)]
    return [
        row("integer", [integer(7)], "i7"),
        row("integer-negative", [integer(-9223372036854775808)], "i-9223372036854775808"),
        row("real", [real("7.0")], "r401c000000000000"),
        row("real-negative", [real("-2.5")], "rc004000000000000"),
        row("text-plain", [plain("a-Z_0.@:/")], "ta-Z_0.@:/"),
        row("text-of-a-number", [plain("7")], "t7"),
        row("text-empty", [plain("")], "t"),
        row("text-with-a-comma", [plain("a,b")], "x612c62"),
        row("text-with-a-space", [plain("a b")], "x612062"),
        row("text-beyond-ascii", [plain("Zoë")], "x5a6fc3ab"),
        row("text-not-utf8", [{"class": "text", "hex": "ff"}], "xff"),
        row("blob", [blob("07")], "b07"),
        row("blob-empty", [blob("")], "b"),
        row("null", [{"class": "null"}], "n"),
        row("two-columns", [plain("eu"), integer(7)], "teu,i7"),
        row("two-columns-other-order", [integer(7), plain("eu")], "i7,teu"),
        row("three-columns-with-null", [plain("eu"), {"class": "null"}, blob("00ff")], "teu,n,b00ff"),
        row("at-the-limit", limit, "t" + "a" * 1023),
        row("beyond-the-limit", [plain("a" * 1024)], "h" + hashlib.sha256(b"t" + b"a" * 1024).hexdigest()),
        row("long-blob", long, "h" + hashlib.sha256(b"b" + b"01" * 600).hexdigest()),
    ]


def main():
    valid = [
        cell("worked-example", "the example of the specification", {"class": "text", "value": "zoë@example.org"}),
        cell("text-empty", "the empty text is a value", {"class": "text", "value": ""}),
        cell("text-like-an-envelope", "a text that begins like one", {"class": "text", "value": "kr1.AAAA"}),
        cell("blob", "a blob stays a blob: the envelope itself", {"class": "blob", "hex": "00ff01"}, blob=True),
        cell("integer", "a number becomes a text", {"class": "integer", "value": "-9223372036854775808"}, value_class="integer"),
        cell("real", "a number becomes a text", {"class": "real", "value": "2.5"}, value_class="real"),
        cell("real-large", "with an exponent", {"class": "real", "value": "1e300"}, value_class="real"),
        cell("json-string", "a string of a JSON document", {"class": "text", "value": "+31 6"}, json_member=True),
        cell("json-other", "another member, as it was written", {"class": "json", "value": "{\"a\" : [1,2.50]}"}, value_class="json", json_member=True),
        cell("row-of-two-columns", "a composite identity", {"class": "text", "value": "x"}, row="teu,i7"),
        cell("no-row", "an asset that declares no identity", {"class": "text", "value": "x"}, row=None),
    ]
    def refused(name, about, base, **changes):
        kept = {key: value for key, value in valid[base].items() if key in ("asset", "column", "row", "stored", "stored_hex")}
        return {"id": name, "about": about, **kept, **changes, "failure": "unopenable"}

    foreign = seal("class", b"5", spec.context(ASSET, COLUMN, "i7", "date"))[2]
    failing = [
        refused("another-row", "a value that was copied to another row", 0, row="i8"),
        refused("another-row-of-the-same-digits", "7 and '7' are different rows", 0, row="t7"),
        refused("row-where-none-was", "bound to no row, read as bound", 10, row="i7"),
        refused("no-row-where-one-was", "bound to a row, read as bound to none", 0, row=None),
        refused("swapped-columns-of-the-row", "the order of the identity columns counts", 9, row="i7,teu"),
        refused("another-column", "a value that was copied to another column", 0, column=OTHER),
        refused("another-asset", "a value that was copied to another asset", 0, asset=OTHER),
        refused("unknown-class", "a class that no reader knows", 0, stored=text(foreign)),
        refused("json-class-in-a-column", "a JSON member outside of JSON", 8),
    ]
    about = (
        "Vectors of spec/asset-value.md, made by testdata/interop/make_asset_vectors.py. Bytes are in hex. `rows` are row "
        "identities; `valid` cells open to `opens_to` and are, byte for byte, what Keyrail writes with their `salt` and "
        "`iv`; `failing` cells carry the version and must not open."
    )
    key = {"key": KEY.hex(), "kid": KID.hex(), "key_id": KEY_ID.hex(), "suite": "A256GCM"}
    print(json.dumps({"about": about, "key": key, "rows": rows(), "valid": valid, "failing": failing}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
