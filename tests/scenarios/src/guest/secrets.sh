#!/bin/bash
# Prints where one of the lab's secrets stands though it must not: state, reports, status, journal, units, processes, containers.
set -uo pipefail
cat /root/lab/keys/admin /root/lab/keys/publisher >/root/lab/secrets
echo lab-database-password >>/root/lab/secrets
[ -e /root/lab/keys/registry ] && cat /root/lab/keys/registry >>/root/lab/secrets
seen() { grep -aqF -f /root/lab/secrets && echo "$1"; }
journalctl --sync
{
	find /var/lib/connect-migrator \( -name 'state.db*' -o -name 'report*' \) -type f -exec grep -laF -f /root/lab/secrets {} +
	journalctl --no-pager -o export -u connect-migrator@prod -u 'connect-migrator-step-*' -u docker -u connect-prod | seen journal
	journalctl --no-pager -o export INSTANCE=prod | seen 'journal by INSTANCE'
	systemctl show --no-pager 'connect-migrator*' | seen 'systemctl show'
	grep -laF -f /root/lab/secrets /proc/[0-9]*/cmdline /proc/[0-9]*/environ
	if [ "$(docker ps -aq | wc -l)" != 0 ]; then docker ps -aq | xargs docker inspect | seen 'docker inspect'; fi
	if [ -e /var/lib/connect-migrator/prod/state.db ]; then
		connect-migrator status prod --json | seen status
		connect-migrator report prod --output - | seen 'the report as a page'
		connect-migrator report prod --json | seen 'the report as JSON'
	fi
} 2>/dev/null
# A search that finds nothing anywhere proves nothing: this one finds the password where it belongs.
grep -qF lab-database-password /root/lab/secrets && grep -qaF -f /root/lab/secrets /root/lab/keys/admin || echo 'the search itself does not work'
