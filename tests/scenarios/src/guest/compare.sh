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
for pair in "$old/ $new/" "$new/ $old/"; do
	# The times of the root folder itself: those who keep something there changed them.
	rsync -aHAXn --numeric-ids --checksum --delete --itemize-changes "${ours[@]}" $pair | grep -v '^\.d\.\.t\.\.\.\.\.\. \./$' || true
done
listing() {
	(cd "$1" && find . -mindepth 1 \( -path ./.connect-prod-data -o -path ./.connect-migrator-prod -o -path ./lost+found \) -prune -o \
		\( -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %s %l\n' \) | sort)
}
diff <(listing $old) <(listing $new) || true
entries=$(listing $old | wc -l)
rows=0
# The heartbeats of the stand-in are those of a running copy, and are not carried.
compare() {
	local table here there
	for table in $(sqlite3 -readonly "$1" "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' and name != 'live_instances'"); do
		here=$(sqlite3 -readonly "$1" "select count(*) from $table")
		there=$(cd / && runuser -u postgres -- psql -qAtc "select count(*) from $table" connect)
		[ "$here" = "$there" ] || echo "table $table has $here rows in SQLite, $there in PostgreSQL"
		rows=$((rows + here))
		tables=$((${tables:-0} + 1))
	done
}
compare $old/db/connect.db
compare $old/db/instrumentation.db
printf 'compared %d entries, %d tables with %d rows, in %d ms\n' "$entries" "$tables" "$rows" $((($(date +%s%N) - began) / 1000000))
