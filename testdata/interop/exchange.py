"""Opens and makes envelopes under an exported data key version.

Standard input is one JSON object: `export` as `keyrail key export NAME@V --json` prints it, `open` a list of
{"text", "context"}, `make` a list of {"plaintext", "context"}; bytes are in base64. Standard output is one JSON object
too: `opened` has what each opener found, `made` the texts.
"""

import base64
import json
import sys

from envelope import from_text, open_by_hand, open_with_cwt, seal_with_cwt, to_text


def main():
    asked = json.load(sys.stdin)
    export = asked["export"]
    key, kid, key_id = base64.b64decode(export["key"]), bytes.fromhex(export["kid"]), bytes.fromhex(export["key_id"])
    opened = [
        {
            name: base64.b64encode(opener(from_text(item["text"]), key, key_id, item["context"])).decode()
            for name, opener in {"hand": open_by_hand, "cwt": open_with_cwt}.items()
        }
        for item in asked["open"]
    ]
    made = [
        to_text(seal_with_cwt(base64.b64decode(item["plaintext"]), key, kid, key_id, export["suite"], item["context"]))
        for item in asked["make"]
    ]
    json.dump({"opened": opened, "made": made}, sys.stdout)


main()
