#!/bin/bash
# Compares the old data directory and the old database with the new ones, by programs that are not ours: rsync and find, sqlite3 and
# psql. Prints every difference, and in the last line how much was compared.
# Run between the last pass and the start of the new server, when nobody writes to either.
set -euo pipefail
export LC_ALL=C
old=/var/lib/connect-data
new=/mnt/connect
# What steps keep there for themselves.
ours=(--exclude=/.connect-prod-data --exclude=/.connect-migrator-prod --exclude=/lost+found)
began=$(date +%s%N)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The times of the root folder itself: those who keep something there changed them.
rsync -aHAXn --numeric-ids --checksum --delete --itemize-changes "${ours[@]}" $old/ $new/ | grep -v '^\.d\.\.t\.\.\.\.\.\. \./$' || true
listing() {
	(cd "$1" && find . -mindepth 1 \( -path ./.connect-prod-data -o -path ./.connect-migrator-prod -o -path ./lost+found \) -prune -o \
		\( -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %s %l\n' \) | sort)
}
listing $old >"$work/old"
diff "$work/old" <(listing $new) || true
# One statement that counts the rows of every table. The heartbeats of the stand-in are those of a running copy, and are not carried.
statement="select group_concat('select ''' || name || ''', count(*) from ' || name, ' union all ') from sqlite_master
	where type = 'table' and name not like 'sqlite_%' and name != 'live_instances'"
# Nobody has the files open: to read them leaves no trace.
for file in $old/db/connect.db $old/db/instrumentation.db; do
	count=$(sqlite3 "file:$file?immutable=1" "$statement")
	sqlite3 "file:$file?immutable=1" "$count" | sort >>"$work/here"
	(cd / && runuser -u postgres -- psql -qAtc "$count" connect) | sort >>"$work/there"
done
diff "$work/here" "$work/there" || true
printf 'compared %d entries, %d tables with %d rows, in %d ms\n' "$(wc -l <"$work/old")" "$(wc -l <"$work/here")" \
	"$(awk -F '|' '{ sum += $2 } END { print sum }' "$work/here")" $((($(date +%s%N) - began) / 1000000))
