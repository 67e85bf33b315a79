#!/bin/sh
# Fails as long as the file "ready" is not there, as a service does whose database is away.
set -eu
if ! [ -e ready ]; then
	echo "waiting" >status.txt
	echo "the database is not ready" >&2
	exit 1
fi
service=$(sed -n 's/^  "CFG_service": *"\([A-Za-z0-9._-]*\)",*$/\1/p' "$WATCHER_DATA")
echo "applied $service" >status.txt
echo "applied $service"
