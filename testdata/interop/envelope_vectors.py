"""The vectors of the envelope. Every envelope in them is made by `cwt` or by hand with `cbor2`, none by Keyrail."""

import hashlib

import cbor2

from envelope import (
    ALG,
    CIPHER,
    DIRECT_HKDF_SHA_256,
    SALT,
    content_key,
    enc_structure,
    external_aad,
    kdf_context,
    open_by_hand,
    open_with_cwt,
    seal_with_cwt,
    to_text,
)

LONG_TEXT_TIMES = 5_600_000


def fixed(label, length):
    """Bytes that look random and are the same at every run."""
    return hashlib.sha256(b"keyrail vectors: " + label.encode()).digest()[:length]


KEY, OTHER_KEY = fixed("key", 32), fixed("other key", 32)
KID, OTHER_KID = fixed("kid", 16), fixed("other kid", 16)
KEY_ID, OTHER_KEY_ID = fixed("key id", 16), fixed("other key id", 16)
CONTEXT = {"table": "people", "row": "7", "column": "e-mail"}
PLAINTEXT = "Zoë <zoe@example.org>".encode()


class Message:
    """An envelope taken apart, so that a vector can change one thing in it."""

    def __init__(self, vector_id, suite="A256GCM", context=None, plaintext=PLAINTEXT):
        self.suite, self.context, self.plaintext = suite, {} if context is None else context, plaintext
        self.protected = {1: ALG[suite], 4: KID}
        self.unprotected = {5: fixed(vector_id + " iv", 12)}
        self.recipient_protected = {1: DIRECT_HKDF_SHA_256}
        self.recipient_unprotected = {SALT: fixed(vector_id + " salt", 32)}
        self.recipient_ciphertext = b""
        self.tag = 96

    def parts(self):
        protected = self.raw_protected if hasattr(self, "raw_protected") else cbor2.dumps(self.protected)
        recipient_protected = cbor2.dumps(self.recipient_protected) if self.recipient_protected else b""
        return protected, recipient_protected

    def intermediate(self):
        protected, recipient_protected = self.parts()
        headers = self.protected | self.unprotected
        aad = external_aad(KEY_ID, self.context)
        info = kdf_context(headers[1], recipient_protected)
        key = content_key(KEY, self.recipient_unprotected[SALT], info)
        structure = enc_structure(protected, aad)
        return {
            "protected": protected,
            "external_aad": aad,
            "enc_structure": structure,
            "kdf_context": info,
            "content_key": key,
            "ciphertext": CIPHER[headers[1]](key).encrypt(headers[5], self.plaintext, structure),
        }

    def value(self):
        protected, recipient_protected = self.parts()
        recipient = [recipient_protected, self.recipient_unprotected, self.recipient_ciphertext]
        return [protected, self.unprotected, self.intermediate()["ciphertext"], [recipient]]

    def encode(self):
        return cbor2.dumps(cbor2.CBORTag(self.tag, self.value()))


def entry(vector_id, about, message, **more):
    """What is common to all vectors."""
    caller = {"key": KEY, "kid": KID, "key_id": KEY_ID, "suite": message.suite, "context": message.context}
    return {"id": vector_id, "about": about} | caller | more


def valid(vector_id, about, message, envelope=None):
    """A vector that opens; both openers that are not ours have opened it, and ours has nothing to do with it."""
    made = message.encode() if envelope is None else envelope
    arguments = (made, KEY, KEY_ID, message.context)
    assert open_by_hand(*arguments) == message.plaintext, vector_id
    if 5 in message.unprotected:
        assert open_with_cwt(*arguments) == message.plaintext, vector_id
    return entry(vector_id, about, message, plaintext=message.plaintext, envelope=made, text=to_text(made))


def own(vector_id, about, *arguments):
    """What Keyrail itself writes, byte for byte, given this salt and IV."""
    message = Message(vector_id, *arguments)
    salt, iv = message.recipient_unprotected[SALT], message.unprotected[5]
    made = seal_with_cwt(message.plaintext, KEY, KID, KEY_ID, message.suite, message.context, salt, iv)
    assert made == message.encode(), vector_id
    vector = valid(vector_id, about, message, made) | {"salt": salt, "iv": iv}
    return vector | {"version_prefix": vector["text"][:38]} | message.intermediate()


def own_vectors():
    long_context = {"k" * length: "v" * 300 for length in (128, 23, 24, 1)}
    return [
        own("worked-example", "the example of the specification", "A256GCM", CONTEXT),
        own("a256gcm-without-context", "no context at all", "A256GCM"),
        own("a256gcm-empty-plaintext", "the empty text is a value", "A256GCM", CONTEXT, b""),
        own("a256gcm-300-bytes", "lengths that take two and three bytes", "A256GCM", CONTEXT, bytes(range(256)) + b"+" * 44),
        own("a256gcm-context-order", "keys of several lengths, sorted by length first", "A256GCM", long_context, b"sorted"),
        own("a256gcm-context-unicode", "texts of several scripts", "A256GCM", {"имя": "Ὀδυσσεύς", "名": "🗝"}, b"unicode"),
        own("chacha20-with-context", "the other suite", "ChaCha20-Poly1305", CONTEXT),
        own("chacha20-without-context", "the other suite, no context", "ChaCha20-Poly1305"),
        own("chacha20-empty-plaintext", "the other suite, the empty text", "ChaCha20-Poly1305", {}, b""),
    ]


def changed(vector_id, about, **attributes):
    message = Message(vector_id)
    for name, value in attributes.items():
        setattr(message, name, value)
    return valid(vector_id, about, message)


def long_heads(message):
    """The same value with every length written longer than it has to be."""
    protected, recipient_protected = message.parts()
    data = lambda value: b"\x5a" + len(value).to_bytes(4, "big") + value
    iv, salt = message.unprotected[5], message.recipient_unprotected[SALT]
    recipient = b"\x98\x03" + data(recipient_protected) + b"\xb8\x01\x38\x13" + data(salt) + b"\x58\x00"
    body = data(protected) + b"\xb9\x00\x01\x18\x05" + data(iv) + data(message.intermediate()["ciphertext"])
    return b"\xd9\x00\x60\x98\x04" + body + b"\x9a\x00\x00\x00\x01" + recipient


def foreign_vectors():
    iv, salt = fixed("foreign iv", 12), fixed("foreign salt", 32)
    long = Message("foreign-long-heads")
    return [
        changed("foreign-header-order", "the protected header in another order", protected={4: KID, 1: 3}),
        changed("foreign-iv-protected", "the IV in the protected header", protected={1: 3, 4: KID, 5: iv}, unprotected={}),
        changed("foreign-protected-extra", "a content type, authenticated", protected={1: 3, 3: "text/plain", 4: KID}),
        changed("foreign-unprotected-extra", "labels that are not critical", unprotected={5: iv, 3: 0, -70000: [1, {2: "x"}], "x": 1}),
        changed("foreign-recipient-kid", "the recipient names a key too", recipient_unprotected={4: b"01", SALT: salt}),
        changed("foreign-recipient-extra", "more in the recipient's protected header", recipient_protected={1: -10, 3: 0}),
        valid("foreign-long-heads", "lengths written longer than needed", long, long_heads(long)),
    ]
