"""Opens and makes Keyrail envelopes without a line of Keyrail's own code: once by hand, once with the COSE library `cwt`."""

import base64

import cbor2
import cwt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ALG = {"A256GCM": 3, "ChaCha20-Poly1305": 24}
CIPHER = {3: AESGCM, 24: ChaCha20Poly1305}
DIRECT_HKDF_SHA_256 = -10
SALT = -20


def to_text(envelope):
    return "kr1." + base64.urlsafe_b64encode(envelope).decode().rstrip("=")


def from_text(text):
    prefix, encoded = text[:4], text[4:]
    assert prefix == "kr1.", "not a Keyrail ciphertext"
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)


def external_aad(key_id, context):
    return cbor2.dumps(["keyrail.envelope.v1", key_id, context], canonical=True)


def kdf_context(alg, recipient_protected):
    return cbor2.dumps([alg, [None] * 3, [None] * 3, [256, recipient_protected]])


def enc_structure(protected, aad):
    return cbor2.dumps(["Encrypt", protected, aad])


def content_key(key, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def open_by_hand(envelope, key, key_id, context):
    """The whole of what a holder of an exported key has to do."""
    protected, unprotected, ciphertext, recipients = cbor2.loads(envelope).value
    [[recipient_protected, recipient_unprotected, _]] = recipients
    headers = cbor2.loads(protected) | unprotected
    info = kdf_context(headers[1], recipient_protected)
    cipher = CIPHER[headers[1]](content_key(key, recipient_unprotected[SALT], info))
    return cipher.decrypt(headers[5], ciphertext, enc_structure(protected, external_aad(key_id, context)))


def open_with_cwt(envelope, key, key_id, context):
    protected, _, _, [[recipient_protected, recipient_unprotected, _]] = cbor2.loads(envelope).value
    alg = cbor2.loads(protected)[1]
    # The library looks a key up by the recipient's kid, where there is one.
    shared = cwt.COSEKey.from_symmetric_key(key, alg=alg, kid=recipient_unprotected.get(4, b""))
    said = [alg, [None] * 3, [None] * 3, [256, recipient_protected]]
    return cwt.COSE.new().decode(envelope, shared, context=said, external_aad=external_aad(key_id, context))


def seal_with_cwt(plaintext, key, kid, key_id, suite, context, salt=None, iv=None):
    """Without salt and IV the library chooses them."""
    alg = ALG[suite]
    shared = cwt.COSEKey.from_symmetric_key(key, alg=alg)
    recipient = cwt.Recipient.new(
        protected={1: DIRECT_HKDF_SHA_256},
        unprotected={SALT: salt} if salt else {},
        context=[alg, [None] * 3, [None] * 3, [256, cbor2.dumps({1: DIRECT_HKDF_SHA_256})]],
    )
    return cwt.COSE.new().encode(
        plaintext,
        shared,
        protected={1: alg, 4: kid},
        unprotected={5: iv} if iv else {},
        recipients=[recipient],
        external_aad=external_aad(key_id, context),
    )
