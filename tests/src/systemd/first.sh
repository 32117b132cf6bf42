#!/bin/sh
# The package's first three commands, as somebody who has just logged in types them, until the
# alert; prints what it took in milliseconds, and the alert.
#
#     first.sh SECONDS CELSIUS      give up after so many, with a reading of so much
set -eu
limit=$1 celsius=$2
cd "$(mktemp -d)"

now() { date +%s%3N; }
began=$(now)

# wait_for PATTERN: until dev has said it.
wait_for() {
    until grep -q "$1" dev.log; do
        if [ $(($(now) - began)) -gt $((limit * 1000)) ]; then
            echo "no '$1' within $limit s; dev said:" >&2
            cat dev.log >&2
            exit 1
        fi
        kill -0 "$dev" || { cat dev.log >&2; exit 1; }
        sleep 0.05
    done
}

millrace new greenhouse --template python >new.log
cd greenhouse
millrace dev >dev.log 2>&1 &
dev=$!
trap 'kill -INT $dev; wait $dev' EXIT
wait_for 'ready in'
millrace produce readings -k bed-4 "{\"c\":$celsius}" >../produce.log
wait_for "^ *alerts\[.*$celsius"
echo "$(($(now) - began))"
# By another way than dev's own output.
timeout "$limit" millrace consume alerts -n 1
