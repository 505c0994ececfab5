"""Envelopes that must be refused, each with where a reader notices at the latest."""

import cbor2

from envelope import SALT, to_text
from envelope_vectors import (
    CONTEXT,
    KEY_ID,
    KID,
    LONG_TEXT_TIMES,
    OTHER_KEY,
    OTHER_KEY_ID,
    OTHER_KID,
    Message,
    entry,
    fixed,
)

BASE = Message("failing", "A256GCM", CONTEXT)
ENVELOPE = BASE.encode()
TEXT = to_text(ENVELOPE)


def failing(vector_id, failure, about, text=TEXT, **caller):
    return entry(vector_id, about, BASE, **({"failure": failure, "text": text} | caller))


def altered(vector_id, failure, about, **attributes):
    """The base message with attributes of it changed before it is encrypted and encoded."""
    message = Message("failing", "A256GCM", CONTEXT)
    for name, value in attributes.items():
        setattr(message, name, value)
    return failing(vector_id, failure, about, to_text(message.encode()))


def replaced(vector_id, failure, about, change, **caller):
    """The base message with its finished value changed: what was authenticated stays what it was."""
    value = BASE.value()
    change(value)
    return failing(vector_id, failure, about, to_text(cbor2.dumps(cbor2.CBORTag(96, value))), **caller)


def raw(vector_id, failure, about, envelope):
    return failing(vector_id, failure, about, to_text(envelope))


def caller_failures():
    """A sound envelope, and a caller who does not hold what it is bound to."""
    return [
        failing("wrong-key", "unopenable", "another key under the same kid", key=OTHER_KEY),
        failing("wrong-kid", "unopenable", "the caller expects another version", kid=OTHER_KID),
        failing("wrong-key-id", "unopenable", "the caller expects another data key", key_id=OTHER_KEY_ID),
        failing("wrong-suite", "unopenable", "the version is one of the other suite", suite="ChaCha20-Poly1305"),
        failing("context-absent", "unopenable", "no context where there was one", context={}),
        failing("context-value", "unopenable", "another value", context=CONTEXT | {"row": "8"}),
        failing("context-pair-missing", "unopenable", "a pair too few", context={"table": "people", "row": "7"}),
        failing("context-pair-more", "unopenable", "a pair too many", context=CONTEXT | {"x": ""}),
        failing("context-shifted", "unopenable", "the same letters, cut otherwise",
                context={"tablep": "eople", "row": "7", "column": "e-mail"}),
    ]


def bit(index):
    def change(value, place):
        data = bytearray(value[place])
        data[index] ^= 1
        value[place] = bytes(data)
    return change


def with_protected(header):
    def change(value):
        value[0] = cbor2.dumps(header)
    return change


def with_recipient(place, content):
    def change(value):
        value[3][0][place] = content
    return change


def bytes_failures():
    """Bytes that were changed on the way."""
    iv = bytearray(BASE.unprotected[5])
    iv[11] ^= 1
    salt = bytearray(BASE.recipient_unprotected[SALT])
    salt[31] ^= 1
    other = Message("failing, another message", "A256GCM", CONTEXT).value()[2]
    return [
        replaced("altered-tag", "unopenable", "the last bit of the tag", lambda value: bit(-1)(value, 2)),
        replaced("altered-ciphertext", "unopenable", "the first bit of the ciphertext", lambda value: bit(0)(value, 2)),
        replaced("swapped-ciphertext", "unopenable", "the ciphertext of another message", lambda value: value.__setitem__(2, other)),
        replaced("shortened-ciphertext", "unopenable", "a byte less", lambda value: value.__setitem__(2, value[2][:-1])),
        replaced("altered-iv", "unopenable", "a bit of the IV", lambda value: value.__setitem__(1, {5: bytes(iv)})),
        replaced("altered-salt", "unopenable", "a bit of the salt", with_recipient(1, {SALT: bytes(salt)})),
        replaced("altered-kid", "unopenable", "the kid of another version", with_protected({1: 3, 4: OTHER_KID})),
        replaced("altered-kid-expected", "unopenable", "the kid of another version, which the caller expects",
                 with_protected({1: 3, 4: OTHER_KID}), kid=OTHER_KID),
        replaced("altered-alg", "unopenable", "the other suite, which the caller expects",
                 with_protected({1: 24, 4: KID}), suite="ChaCha20-Poly1305"),
        replaced("altered-header-order", "unopenable", "the same header in other bytes", with_protected({4: KID, 1: 3})),
        replaced("altered-header-extra", "unopenable", "a label that was not there", with_protected({1: 3, 4: KID, 3: 0})),
        replaced("altered-recipient-protected", "unopenable", "the recipient's header goes into the derivation",
                 with_recipient(0, cbor2.dumps({1: -10, 3: 0}))),
    ]


def text_failures():
    body = TEXT[4:]
    padded = to_text(Message("failing", "A256GCM", CONTEXT, b"padding").encode())
    spare = -len(padded[4:]) % 4
    assert spare, "this message needs padding"
    loose = padded[:-1] + chr(ord(padded[-1]) + 1)
    cut = [TEXT[: 4 + len(body) * part // 4 // 4 * 4] for part in (1, 2, 3)]
    return [
        failing("text-without-prefix", "encoding", "base64url alone", body),
        failing("text-other-prefix", "encoding", "a version that there is not", "kr2." + body),
        failing("text-prefix-case", "encoding", "the prefix in capitals", "KR1." + body),
        failing("text-prefix-alone", "structure", "nothing behind the prefix", "kr1."),
        failing("text-space-before", "encoding", "a space before it", " " + TEXT),
        failing("text-space-within", "encoding", "a space in it", TEXT[:20] + " " + TEXT[20:]),
        failing("text-newline-after", "encoding", "a newline behind it", TEXT + "\n"),
        failing("text-padded", "encoding", "padding", padded + "=" * spare),
        failing("text-standard-alphabet", "encoding", "the letters of the other base64", "kr1." + body[:40] + "+/" + body[42:]),
        failing("text-trailing-bits", "encoding", "spare bits that are not zero", loose),
        failing("text-one-letter-over", "encoding", "a length that no base64 has", TEXT[: 4 + len(body) // 4 * 4] + "A"),
        failing("text-oversize", "structure", "longer than any envelope", "") | {"text_repeated": ["kr1.", "AAAA", LONG_TEXT_TIMES]},
    ] + [failing(f"text-cut-{index + 1}", "structure", "a piece of it", text) for index, text in enumerate(cut)]


def structure_failures():
    value = BASE.value()
    dump = lambda item: cbor2.dumps(item)
    tagged = lambda item: dump(cbor2.CBORTag(96, item))
    protected, unprotected, ciphertext, recipients = (dump(item) for item in value)
    head = b"\xd8\x60\x84"
    twice = b"\xa3\x01\x03\x01\x03\x04\x50" + KID
    endless_map = b"\xbf\x01\x03\x04\x50" + KID + b"\xff"
    endless_bytes = b"\x5f" + ciphertext + b"\xff"
    return [
        raw("empty-array", "structure", "not an envelope at all", b"\x80"),
        raw("truncated-last-byte", "structure", "without its last byte", ENVELOPE[:-1]),
        raw("truncated-recipients", "structure", "cut before the recipients", ENVELOPE[: -len(recipients)]),
        raw("trailing-byte", "structure", "a byte behind it", ENVELOPE + b"\x00"),
        raw("trailing-envelope", "structure", "a second envelope behind it", ENVELOPE + ENVELOPE),
        raw("untagged", "structure", "without the tag", ENVELOPE[2:]),
        raw("tag-encrypt0", "structure", "the tag of COSE_Encrypt0", dump(cbor2.CBORTag(16, value))),
        raw("tag-twice", "structure", "the tag of self-described CBOR around it", b"\xd9\xd9\xf7" + ENVELOPE),
        raw("array-of-three", "structure", "no recipients at all", tagged(value[:3])),
        raw("array-of-five", "structure", "an element too many", tagged(value + [b""])),
        raw("detached", "structure", "the ciphertext is elsewhere", tagged([value[0], value[1], None, value[3]])),
        raw("ciphertext-text", "structure", "a text in place of bytes", tagged([value[0], value[1], "x" * 32, value[3]])),
        raw("ciphertext-short", "structure", "shorter than a tag", tagged([value[0], value[1], value[2][:15], value[3]])),
        raw("protected-map", "structure", "the protected header as a map", tagged([{1: 3, 4: KID}] + value[1:])),
        raw("label-twice", "structure", "the algorithm twice", tagged([twice] + value[1:])),
        raw("indefinite-array", "structure", "an array without length",
            b"\xd8\x60\x9f" + protected + unprotected + ciphertext + recipients + b"\xff"),
        raw("indefinite-ciphertext", "structure", "a ciphertext in chunks", head + protected + unprotected + endless_bytes + recipients),
        raw("indefinite-unprotected", "structure", "a map without length",
            head + protected + b"\xbf" + unprotected[1:] + b"\xff" + ciphertext + recipients),
        raw("indefinite-protected", "headers", "a map without length in the protected header", tagged([endless_map] + value[1:])),
        raw("length-beyond-end", "structure", "a length of exabytes", head + b"\x5b\x7f" + b"\xff" * 7 + b"\x00"),
        raw("count-beyond-end", "structure", "an array of endless many", b"\xd8\x60\x9b" + b"\xff" * 8),
        raw("nested-deeply", "structure", "ten thousand arrays in each other", b"\xd8\x60" + b"\x81" * 10_000 + b"\x00"),
    ]


def header_failures():
    iv = BASE.unprotected[5]
    return [
        altered("kid-absent", "headers", "no kid", protected={1: 3}),
        altered("kid-15-bytes", "headers", "a kid too short", protected={1: 3, 4: KID[:15]}),
        altered("kid-17-bytes", "headers", "a kid too long", protected={1: 3, 4: KID + b"\x00"}),
        altered("kid-text", "structure", "a kid that is a text", protected={1: 3, 4: "k" * 16}),
        altered("kid-unprotected", "headers", "a kid that is not authenticated", protected={1: 3}, unprotected={4: KID, 5: iv}),
        altered("kid-twice", "headers", "a kid in both headers", unprotected={4: OTHER_KID, 5: iv}),
        altered("critical", "headers", "a critical label", protected={1: 3, 2: [-70000], 4: KID, -70000: 1}),
        altered("critical-known", "headers", "a critical label that is known", protected={1: 3, 2: [4], 4: KID}),
        altered("critical-empty", "structure", "no label is critical, said so", protected={1: 3, 2: [], 4: KID}),
        altered("critical-unprotected", "headers", "a critical label that is not authenticated", unprotected={2: [5], 5: iv}),
        replaced("iv-absent", "headers", "no IV", lambda value: value.__setitem__(1, {})),
        replaced("iv-11-bytes", "headers", "an IV too short", lambda value: value.__setitem__(1, {5: iv[:11]})),
        replaced("iv-13-bytes", "headers", "an IV too long", lambda value: value.__setitem__(1, {5: iv + b"\x00"})),
        altered("iv-twice", "headers", "an IV in both headers", protected={1: 3, 4: KID, 5: iv}),
        replaced("iv-partial", "headers", "a partial IV", lambda value: value.__setitem__(1, {6: iv})),
        replaced("alg-absent", "algorithm", "no algorithm", with_protected({4: KID})),
        replaced("alg-unprotected", "algorithm", "an algorithm that is not authenticated",
                 lambda value: (with_protected({4: KID})(value), value.__setitem__(1, {1: 3, 5: iv}))),
        altered("alg-twice", "headers", "an algorithm in both headers", unprotected={1: 3, 5: iv}),
        replaced("alg-a128gcm", "algorithm", "an algorithm that is none of ours", with_protected({1: 1, 4: KID})),
        replaced("alg-unknown", "structure", "a number that nobody gave", with_protected({1: 999, 4: KID})),
        replaced("alg-text", "algorithm", "an algorithm by name", with_protected({1: "A256GCM", 4: KID})),
    ]


def recipient_failures():
    one = BASE.value()[3][0]
    salt = BASE.recipient_unprotected[SALT]
    direct = lambda alg: with_recipient(0, cbor2.dumps({1: alg}))
    return [
        replaced("recipients-none", "recipient", "an empty list", lambda value: value.__setitem__(3, [])),
        replaced("recipients-two", "recipient", "the same one twice", lambda value: value.__setitem__(3, [one, one])),
        replaced("recipient-hkdf-sha-512", "recipient", "another derivation", direct(-11)),
        replaced("recipient-direct", "recipient", "no derivation", direct(-6)),
        replaced("recipient-alg-unprotected", "recipient", "a derivation that is not authenticated",
                 lambda value: (with_recipient(0, b"")(value), with_recipient(1, {1: -10, SALT: salt})(value))),
        replaced("recipient-alg-twice", "recipient", "a derivation in both headers", with_recipient(1, {1: -11, SALT: salt})),
        replaced("recipient-critical", "recipient", "a critical label", with_recipient(0, cbor2.dumps({1: -10, 2: [-70000], -70000: 1}))),
        replaced("recipient-ciphertext", "recipient", "a key beside the derivation", with_recipient(2, b"\x00")),
        replaced("recipient-ciphertext-nil", "recipient", "nothing in place of no bytes", with_recipient(2, None)),
        replaced("recipient-nested", "recipient", "a recipient of the recipient", lambda value: value.__setitem__(3, [one + [[one]]])),
        replaced("recipient-party", "recipient", "a party names itself", with_recipient(1, {SALT: salt, -21: b"u"})),
        replaced("recipient-party-nonce", "recipient", "a nonce of a party", with_recipient(1, {SALT: salt, -22: b"n" * 32})),
        replaced("salt-absent", "recipient", "no salt", with_recipient(1, {})),
        replaced("salt-empty", "recipient", "a salt of no bytes", with_recipient(1, {SALT: b""})),
        replaced("salt-31-bytes", "recipient", "a salt too short", with_recipient(1, {SALT: salt[:31]})),
        replaced("salt-33-bytes", "recipient", "a salt too long", with_recipient(1, {SALT: salt + b"\x00"})),
        replaced("salt-text", "recipient", "a salt that is a text", with_recipient(1, {SALT: "s" * 32})),
        replaced("salt-protected", "recipient", "the salt in the protected header",
                 lambda value: (with_recipient(0, cbor2.dumps({1: -10, SALT: salt}))(value), with_recipient(1, {})(value))),
        replaced("salt-twice", "recipient", "a salt in both headers", with_recipient(0, cbor2.dumps({1: -10, SALT: salt}))),
    ]


def failing_vectors():
    return (
        caller_failures() + bytes_failures() + text_failures() + structure_failures() + header_failures() + recipient_failures()
    )
