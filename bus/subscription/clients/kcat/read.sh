#!/bin/sh
# The committed records of this agency's topics, one a line: topic, lane, offset, time (Unix ms), bytes of key and value.
# With a number: only that many of the newest offsets of each lane; ends of transactions take some of them.
set -eu
cd "$(dirname "$0")"
from="${1:+-$1}"
while IFS= read -r topic; do
    kcat -F kcat.conf -C -t "$topic" -o "${from:-beginning}" -e -q -f '%t %p %o %T %K %S\n' </dev/null
done <topics
