#!/bin/sh
# Stands for a rollout that takes its time: ten steps in five seconds.
set -eu
version=$(sed -n 's/^  "CFG_version": *"\([A-Za-z0-9._-]*\)",*$/\1/p' "$WATCHER_DATA")
trap 'echo "version ${version:-none} is superseded"; exit 143' TERM

for step in 1 2 3 4 5 6 7 8 9 10; do
	echo "version ${version:-none}, step $step of 10"
	sleep 0.5 & # in the background, so that the trap need not wait for it
	wait $! 2>/dev/null
done
printf '%s\n' "$version" >version.txt.new
mv version.txt.new version.txt
echo "version ${version:-none} is rolled out"
