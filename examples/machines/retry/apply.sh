#!/bin/sh
# Fails as long as the file "ready" is not there, as a service does whose database is away.
set -eu
if ! [ -e ready ]; then
	echo "the database is not ready" >&2
	exit 1
fi
sed -n 's/^  "CFG_service": *"\([A-Za-z0-9._-]*\)",*$/\1/p' "$WATCHER_DATA" >applied.txt.new
mv applied.txt.new applied.txt
echo "applied $(cat applied.txt)"
