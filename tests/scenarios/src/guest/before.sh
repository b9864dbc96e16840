#!/bin/bash
# Prints what must be the same again after a rollback: one line an entry, sorted. $1: `all`, or `kept` for what a migration may
# never change, also when it is committed.
set -euo pipefail
digest() { # files and links below $1, with owners and modes
	[ -e "$1" ] || return 0
	find "$1" "${@:2}" \( -type f -o -type l \) -printf '%p\0' | sort -z | while IFS= read -r -d '' path; do
		if [ -L "$path" ]; then sum="-> $(readlink "$path")"; else sum=$(sha256sum <"$path"); fi
		printf '%s %s %s\n' "$(stat -c '%a %u:%g' "$path")" "$path" "$sum"
	done
}
digest /etc/rstudio-connect
digest /etc/default/rstudio-connect
digest /var/lib/rstudio-connect
# The stand-in's own heartbeat, locks and logs change by themselves.
digest /mnt/connect/data -not -path '*/.standin*' -not -path '*/.connect-migrator*' -not -path '*/metrics/*' -not -path '*/jobs/*' \
	$([ "${1:-all}" = kept ] && echo "-not -path */packrat/* -not -path */python-environments/* -not -path */R/*")
[ "${1:-all}" = kept ] && exit 0
digest /etc/nginx
digest /etc/systemd/system -name 'rstudio-connect*'
printf 'unit %s %s\n' "$(systemctl is-active rstudio-connect)" "$(systemctl is-enabled rstudio-connect)"
printf 'container %s\n' "$(docker ps -aq | wc -l)"
