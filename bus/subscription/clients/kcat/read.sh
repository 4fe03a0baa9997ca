#!/bin/sh
# The committed records of this agency's topics, one a line: topic, lane, offset, time (Unix ms), bytes of key and value.
# With a number: only that many of the newest offsets of each lane; ends of transactions take some of them.
set -eu
cd "$(dirname "$0")"
least=2.6.1 # before it, librdkafka answers a SCRAM login in a way that Kafka 4 refuses
found="$(kcat -V | sed -n 's/.*librdkafka \([0-9.]*[0-9]\).*/\1/p')"
if grep -q '^sasl.mechanism=SCRAM' kcat.conf && [ "$(printf '%s\n' "$least" "$found" | sort -V | head -n 1)" != "$least" ]; then
    echo "kcat runs with librdkafka $found, which cannot log in to Kafka 4: $least or newer is needed" >&2
    exit 1
fi
from="${1:+-$1}"
while IFS= read -r topic; do
    kcat -F kcat.conf -C -t "$topic" -o "${from:-beginning}" -e -q -f '%t %p %o %T %K %S\n' </dev/null
done <topics
