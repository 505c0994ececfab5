"""Makes `testdata/vectors/*.json`, or with `--check` compares what it would make with what is there."""

import json
import pathlib
import sys

import envelope_failures
import envelope_vectors
import key_vectors
import share_vectors

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"
ABOUT_ENVELOPE = (
    "Vectors of spec/envelope.md, made by testdata/interop/make_vectors.py. Bytes are in hex. `valid` opens to `plaintext`; "
    "those with `salt` and `iv` are, byte for byte, what Keyrail writes. `failing` must be refused: `failure` is where "
    "Keyrail's reader does. `text_repeated` [a, b, n] stands for the text a followed by n times b."
)


def jsonable(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    return value


def files():
    own, foreign = envelope_vectors.own_vectors(), envelope_vectors.foreign_vectors()
    failing = envelope_failures.failing_vectors()
    return {
        "envelope.json": {"about": ABOUT_ENVELOPE, "valid": own + foreign, "failing": failing},
        "wrapped-key.json": key_vectors.wrapped_keys(),
        "root-slot.json": key_vectors.root_slots(),
        "recovery-share.json": share_vectors.share_vectors(),
    }


def main():
    stale = []
    for name, content in files().items():
        text = json.dumps(jsonable(content), indent=1, ensure_ascii=False) + "\n"
        path = VECTORS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"these are not what the script makes: {', '.join(stale)}")


main()
