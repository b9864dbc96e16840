#!/bin/bash
# Does what content does that runs, until Connect is stopped: writes what it likes, while its files are copied.
cd /var/lib/connect-data/apps/archive || exit 1
n=0
while systemctl is-active -q rstudio-connect; do
	n=$((n + 1))
	echo $n >counter
	head -c 3000 /dev/urandom >>growing
	echo $n >new-$((n % 40))
	rm -f new-$(((n + 7) % 40))
	mv 7 seven 2>/dev/null || mv seven 7
	sleep 0.2
done
