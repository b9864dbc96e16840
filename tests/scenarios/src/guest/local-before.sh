#!/bin/bash
# Prints what must be the same again after a rollback: one line an entry, sorted. $1: `all`, or `kept` for what a migration may
# never change, also when it is committed: the old data directory, the old database, and what belongs to the host.
set -euo pipefail
export LC_ALL=C
data=/var/lib/connect-data
entries() { # everything below $1 with type, mode and owner; what is in files and links
	[ -e "$1" ] || return 0
	{
		find "$@" \( -type f -printf '%m %U:%G %p\n' -o -type l -printf 'link %p -> %l\n' -o -printf '%y %m %U:%G %p\n' \)
		find "$@" -type f -print0 | xargs -0r sha256sum
	} | sort
}
query() { # file, statement: without a trace, also when nobody has the file open
	if [ -e "$1-wal" ]; then sqlite3 -readonly "$1" "$2"; else sqlite3 "file:$1?immutable=1" "$2"; fi
}
tables() { # what stands in SQLite; tasks and heartbeats come and go
	local table
	for table in settings users api_keys content bundles; do
		printf 'sqlite %s %s %s\n' $table \
			"$(query $data/db/connect.db "select count(*) from $table")" \
			"$(query $data/db/connect.db "select * from $table" | sort | md5sum)"
	done
	printf 'sqlite visits %s\n' "$(query $data/db/instrumentation.db 'select * from visits' | sort | md5sum)"
}
# The stand-in's own heartbeats and locks, what every server writes while it serves, and the database, which is looked at by its rows.
living=(-not -path '*/.standin*' -not -path '*/metrics*' -not -path '*/jobs*' -not -path '*/db/*.db*')
entries /etc/default/rstudio-connect
entries /opt/rstudio-connect
entries /var/lib/rstudio-connect
entries $data "${living[@]}"
tables
if [ "${1:-all}" = kept ]; then exit 0; fi
entries /etc/rstudio-connect
entries /etc/nginx
entries /etc/systemd/system
entries /etc/connect-migrator/containers
[ -d /mnt/connect ] && echo 'the mount point is there'
entries /srv/nfs/connect -not -name lost+found
cd /
for which in public; do
	objects=$(runuser -u postgres -- psql -qAtc "select count(*) from pg_class where relnamespace = '$which'::regnamespace" connect)
	printf 'objects in the schema %s of the database: %s\n' $which "$objects"
done
printf 'unit %s %s\n' "$(systemctl is-active rstudio-connect)" "$(systemctl is-enabled rstudio-connect)"
printf 'containers %s\n' "$(docker ps -aq | wc -l)"
