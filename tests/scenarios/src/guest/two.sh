#!/bin/bash
# Looks again and again whether two Connects are alive on this machine, in whatever container. Ends when /root/lab/two-enough appears.
while [ ! -e /root/lab/two-enough ]; do
	count=0
	for exe in /proc/[0-9]*/comm; do
		read -r name 2>/dev/null <"$exe" || continue
		[ "$name" = connect ] || continue
		# What has ended and waits for its parent to look is not alive; asked for its version it serves nobody.
		read -r _ _ state _ 2>/dev/null <"${exe%comm}stat" || continue
		[ "$state" != Z ] || continue
		! grep -qa -e --version "${exe%comm}cmdline" 2>/dev/null || continue
		count=$((count + 1))
	done
	if [ $count -gt 1 ]; then pgrep -ax connect; fi
	rounds=$((${rounds:-0} + 1))
	echo $rounds >/root/lab/two-rounds
	sleep 0.1
done >/root/lab/two-seen 2>&1
