#!/bin/sh
# Writes the value of CFG.username to deployed.txt, as a stand-in for real work.
#
# WATCHER_DATA is a JSON file with one item of the machine's data on a line. A name
# is taken from it only if it is a plain one: then it has no escapes to be decoded,
# and nothing in it can mean anything to whoever uses the file.
set -eu
export LC_ALL=C

if ! grep -q '^  "CFG_username":' "$WATCHER_DATA"; then
	rm -f deployed.txt
	echo "CFG.username is gone: nothing is deployed"
	exit 0
fi

username=$(sed -n 's/^  "CFG_username": *"\([A-Za-z0-9][A-Za-z0-9._@-]*\)",*$/\1/p' "$WATCHER_DATA")
if [ -z "$username" ]; then
	echo "CFG.username is not a plain name: what was deployed stays" >&2
	exit 1
fi

printf '%s\n' "$username" >deployed.txt.new
mv deployed.txt.new deployed.txt
echo "deployed for $username"
