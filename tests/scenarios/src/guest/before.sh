#!/bin/bash
# Prints what must be the same again after a rollback: one line an entry, sorted. $1: `all`, or `kept` for what a migration may
# never change, also when it is committed.
set -euo pipefail
export LC_ALL=C
entries() { # everything below $1 with type, mode and owner; what is in files and links
	[ -e "$1" ] || return 0
	{
		find "$@" \( -type f -printf '%m %U:%G %p\n' -o -type l -printf 'link %p -> %l\n' -o -printf '%y %m %U:%G %p\n' \)
		find "$@" -type f -print0 | xargs -0r sha256sum
	} | sort
}
# The stand-in's own heartbeats and locks, and what every server writes while it serves, change by themselves.
living=(-not -path '*/.standin*' -not -path '*/metrics*' -not -path '*/jobs*')
caches=(-not -path '*/packrat*' -not -path '*/python-environments*' -not -path '*/R' -not -path '*/R/*')
entries /etc/rstudio-connect
entries /etc/default/rstudio-connect
entries /opt/rstudio-connect
entries /var/lib/rstudio-connect
# What the database holds; tasks and heartbeats come and go.
cd /
for table in settings users api_keys content bundles; do
	echo "select '$table', count(*), md5(string_agg(t::text, '|' order by t::text)) from $table t;"
done | runuser -u postgres -- psql -qAt connect
if [ "${1:-all}" = kept ]; then
	# The marker tells the container the data from an empty mount point.
	entries /mnt/connect/data -not -path '*/.connect-migrator*' -not -name .connect-prod-data "${living[@]}" "${caches[@]}"
	exit 0
fi
entries /mnt/connect/data "${living[@]}"
entries /etc/nginx
entries /etc/systemd/system
entries /etc/connect-migrator/containers
printf 'unit %s %s\n' "$(systemctl is-active rstudio-connect)" "$(systemctl is-enabled rstudio-connect)"
printf 'containers %s\n' "$(docker ps -aq | wc -l)"
